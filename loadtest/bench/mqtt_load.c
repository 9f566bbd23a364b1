/* A load of MQTT clients: one thread, one epoll loop, every delivery counted and timed.
 *
 * usage: mqtt_load COMMAND [--NAME VALUE ...]
 *   fanout   1 publisher, --count subscribers of its topic
 *   pairs    --count publishers, each with a subscriber of its own
 *   connect  CONNECT, CONNACK, DISCONNECT, end of connection; --concurrency at once, for --duration
 *   idle     --count connections that do nothing (--subscribe 1: with one subscription each)
 * A publisher keeps --inflight messages under way; a message is under way until every subscriber has it and, with
 * QoS, the broker has acknowledged it. With --rate (messages a second in all) it sends by the clock instead.
 * --pids names the broker's processes, whose CPU and memory are read at the beginning and at the end of the phase.
 *
 * Prints one line of JSON. Exit status: 0, 1 when a delivery is missing, doubled, out of order or altered,
 * 2 when the broker refused something or did not get ready. mqtt_load.py is its twin.
 */
#define _GNU_SOURCE
#include "mqtt_measure.h"
#include "mqtt_wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { IN_PROGRESS = 32, TURN = 256, BLOCK = 256 * 1024, MAX_PACKET = 1 << 20, MAX_TEXT = 128, STAMP = 16 };
enum { WARM = 200 };
static const uint64_t SETTLE = SECOND / 5;

static struct {
    const char *command, *host, *prefix, *user, *password, *pids;
    long port, count, size, qos, inflight, clean, version, concurrency, subscribe;
    double rate, duration, timeout;
} o = {.host = "127.0.0.1", .prefix = "load", .user = "", .password = "", .pids = "", .port = 1883, .count = 10,
       .size = 100, .inflight = 1, .clean = 1, .version = 4, .concurrency = 20, .timeout = 30, .duration = 1};

enum phase { CONNECTING, SUBSCRIBING, READY, LEAVING };

struct client {
    struct buffer partial, unsent; /* received, not yet a packet; accepted by nobody yet */
    uint64_t started;
    int fd;
    uint32_t number, flow, expected; /* expected: sequence number of the next delivery */
    enum phase phase;
    bool subscriber, dirty, blocked;
};

struct flow { /* one publisher's messages */
    struct client *publisher;
    char topic[MAX_TEXT];
    uint32_t sent, acknowledged, complete;
};

static struct client *clients;
static struct flow *flows;
static uint32_t flow_count, client_count, ready_count, *missing; /* missing[seq % inflight]: receivers still without */
static struct client **dirty;
static size_t dirty_count;
static int poller, timer;
static bool publishing;
static uint64_t now, deliveries, messages, duplicates, misordered, altered, withheld, cycles;

/* -- sockets ----------------------------------------------------------------------------------------------------- */

static void flush(struct client *c) {
    if (!c->unsent.size || c->blocked) return;
    ssize_t sent = send(c->fd, c->unsent.bytes, c->unsent.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return; /* the next read meets the error */
    if (sent == (ssize_t)c->unsent.size) {
        c->unsent.size = 0; /* keeps its memory: there will be more to send */
    } else {
        if (sent > 0) drop(&c->unsent, (size_t)sent);
        c->blocked = true;
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
    }
}

/* Publishes of one turn of the loop leave together, as from a client that has several to say. */
static void flush_later(struct client *c) {
    if (c->dirty) return;
    c->dirty = true;
    dirty[dirty_count++] = c;
}

static void open_client(struct client *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
    if (inet_pton(AF_INET, o.host, &address.sin_addr) != 1) fail("--host %s is no IPv4 address", o.host);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket: %s (ulimit -n?)", strerror(errno));
    if (connect(c->fd, (void *)&address, sizeof address)) fail("connect to port %ld: %s", o.port, strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e);
    char id[MAX_TEXT];
    snprintf(id, sizeof id, "%s-%u", o.prefix, c->number);
    c->phase = CONNECTING;
    c->started = read_clock(CLOCK_MONOTONIC);
    put_connect(&c->unsent, (int)o.version, o.clean, id, o.user, o.password);
    flush(c);
}

static void close_client(struct client *c) {
    close(c->fd);
    drop(&c->partial, c->partial.size);
    drop(&c->unsent, c->unsent.size);
    c->blocked = false;
}

/* -- messages: number of the flow, sequence number, time of sending; then filler ---------------------------------- */

static uint32_t under_way(const struct flow *f) {
    uint32_t done = f->complete;
    if (o.qos && f->acknowledged < done) done = f->acknowledged;
    return f->sent - done;
}

static void publish(uint32_t number) {
    static uint8_t payload[MAX_PACKET];
    struct flow *f = &flows[number];
    uint64_t at = read_clock(CLOCK_MONOTONIC);
    memcpy(payload, &number, 4);
    memcpy(payload + 4, &f->sent, 4);
    memcpy(payload + 8, &at, 8);
    memset(payload + STAMP, 'x', (size_t)o.size - STAMP);
    if (missing) missing[f->sent % (uint32_t)o.inflight] = (uint32_t)o.count;
    put_publish(&f->publisher->unsent, (int)o.version, f->topic, (int)o.qos, f->sent % 65535 + 1, payload,
                (size_t)o.size);
    f->sent++;
    messages++;
    flush_later(f->publisher);
}

static void refill(uint32_t number) {
    if (o.rate > 0) return;
    while (publishing && under_way(&flows[number]) < o.inflight) publish(number);
}

static void on_delivery(struct client *c, const uint8_t *payload, size_t size) {
    uint32_t number, sequence;
    uint64_t sent_at;
    if (size != (size_t)o.size) {
        altered++;
        return;
    }
    memcpy(&number, payload, 4);
    memcpy(&sequence, payload + 4, 4);
    memcpy(&sent_at, payload + 8, 8);
    if (number != c->flow || sequence >= flows[number].sent) {
        altered++;
        return;
    }
    if (sequence < c->expected) {
        duplicates++;
        return;
    }
    if (sequence > c->expected) misordered++;
    c->expected = sequence + 1;
    deliveries++;
    note_latency(now - sent_at);
    if (!missing || !--missing[sequence % (uint32_t)o.inflight]) flows[number].complete++;
    refill(number);
}

/* -- packets in -------------------------------------------------------------------------------------------------- */

static void become_ready(struct client *c) {
    c->phase = READY;
    ready_count++;
}

static void on_publish(struct client *c, unsigned first, const uint8_t *body, size_t size) {
    unsigned qos = first >> 1 & 3;
    size_t topic = size >= 2 ? take16(body) : size, at = 2 + topic + (qos ? 2u : 0u), properties = 0;
    if (at > size) fail("PUBLISH of %zu bytes is too short", size);
    unsigned packet_id = qos ? take16(body + at - 2) : 0;
    if (o.version == 5) {
        if (!take_length(body, size, &at, &properties) || properties > size - at) fail("PUBLISH: bad properties");
        at += properties;
    }
    if (qos) put_ack(&c->unsent, qos == 1 ? PUBACK : PUBREC, packet_id);
    if (topic != strlen(flows[c->flow].topic) || memcmp(body + 2, flows[c->flow].topic, topic) || qos != o.qos)
        altered++;
    else
        on_delivery(c, body + at, size - at);
}

static void on_packet(struct client *c, unsigned first, const uint8_t *body, size_t size) {
    unsigned type = first >> 4;
    if (type == PUBLISH) {
        on_publish(c, first, body, size);
        return;
    }
    if (type == DISCONNECT) fail("the broker disconnected %s-%u: reason 0x%02x", o.prefix, c->number, size ? *body : 0);
    if (size < 2) fail("packet of type %u has %zu bytes", type, size);
    switch (type) {
    case CONNACK:
        if (body[1]) fail("connection refused: 0x%02x", body[1]);
        if (c->phase != CONNECTING) fail("a second CONNACK");
        if (!strcmp(o.command, "connect")) {
            static const uint8_t leave[] = {DISCONNECT << 4, 0};
            note_latency(now - c->started);
            put(&c->unsent, leave, sizeof leave);
            flush(c);
            shutdown(c->fd, SHUT_WR);
            c->phase = LEAVING;
        } else if (c->subscriber) {
            c->phase = SUBSCRIBING;
            put_subscribe(&c->unsent, (int)o.version, flows[c->flow].topic, (int)o.qos);
        } else {
            become_ready(c);
        }
        return;
    case SUBACK:
        if (c->phase != SUBSCRIBING || body[size - 1] != o.qos)
            fail("SUBACK says 0x%02x where QoS %ld was asked for", body[size - 1], o.qos);
        become_ready(c);
        return;
    case PUBREL:
        put_ack(&c->unsent, PUBCOMP, take16(body));
        return;
    case PUBREC:
    case PUBACK:
    case PUBCOMP:
        if (size > 2 && body[2] >= FAILURE) fail("a PUBLISH was answered with reason 0x%02x", body[2]);
        if (type == PUBREC) {
            put_ack(&c->unsent, PUBREL, take16(body));
            return;
        }
        flows[c->flow].acknowledged++;
        refill(c->flow);
        return;
    default:
        fail("unexpected packet of type %u", type);
    }
}

static void on_readable(struct client *c) {
    static uint8_t block[BLOCK];
    ssize_t got = recv(c->fd, block, sizeof block, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        if (c->phase != LEAVING) fail("the broker closed the connection of %s-%u", o.prefix, c->number);
        close_client(c);
        cycles++;
        if (publishing) {
            open_client(c);
        } else {
            ready_count++;
        }
        return;
    }
    now = read_clock(CLOCK_MONOTONIC);
    /* Nearly always whole packets arrive, which are then read where they are. */
    bool joined = c->partial.size > 0;
    if (joined) put(&c->partial, block, (size_t)got);
    const uint8_t *bytes = joined ? c->partial.bytes : block;
    size_t size = joined ? c->partial.size : (size_t)got, done = 0;
    for (;;) {
        size_t at = done + 1, length;
        if (at >= size || !take_length(bytes, size, &at, &length)) break;
        if (length > MAX_PACKET) fail("a packet of %zu bytes", length);
        if (length > size - at) break;
        on_packet(c, bytes[done], bytes + at, length);
        done = at + length;
    }
    if (joined) {
        if (done) drop(&c->partial, done);
    } else if (done < size) {
        put(&c->partial, bytes + done, size - done);
    }
    if (!c->dirty) flush(c); /* acknowledgements of one read leave together */
}

static void turn(uint64_t until) {
    struct epoll_event events[TURN];
    /* Before the wait, so that nothing said since the last one waits with it. */
    for (size_t i = 0; i < dirty_count; i++) {
        dirty[i]->dirty = false;
        flush(dirty[i]);
    }
    dirty_count = 0;
    now = read_clock(CLOCK_MONOTONIC);
    int wait = until > now ? (int)((until - now) / 1000000 + 1) : 0;
    int count = epoll_wait(poller, events, TURN, wait < 100 ? wait : 100);
    for (int i = 0; i < count; i++) {
        struct client *c = events[i].data.ptr;
        uint64_t expirations;
        if (!c) { /* the timer only ends the wait */
            if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) fail("timer");
            continue;
        }
        if (events[i].events & EPOLLOUT) {
            struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
            epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
            c->blocked = false;
            flush(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
    }
    now = read_clock(CLOCK_MONOTONIC);
}

static void run_until(uint64_t end) {
    do turn(end);
    while (now < end);
}

/* -- phases ------------------------------------------------------------------------------------------------------ */

/* Opens clients up to number `count`, never more at once than an accept queue holds. */
static void set_up(uint32_t count) {
    now = read_clock(CLOCK_MONOTONIC);
    uint64_t end = now + (uint64_t)(o.timeout * 1e9);
    while (ready_count < count) {
        while (client_count < count && client_count - ready_count < IN_PROGRESS) open_client(&clients[client_count++]);
        turn(end);
        if (now > end) fail("%u of %u clients are ready after %g s", ready_count, count, o.timeout);
    }
}

static void publish_by_clock(uint64_t start, uint64_t end) {
    uint64_t due = start, sent = 0;
    for (now = start; now < end;) {
        for (; due <= now; due = start + (uint64_t)((double)sent * 1e9 / o.rate)) {
            uint32_t number = (uint32_t)(sent++ % flow_count);
            if (under_way(&flows[number]) < o.inflight)
                publish(number);
            else
                withheld++; /* the broker lags: to send more would only measure its queue */
        }
        struct itimerspec at = {.it_value = {(time_t)(due / SECOND), (long)(due % SECOND)}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        turn(end);
    }
}

static bool all_arrived(void) {
    for (uint32_t i = 0; i < flow_count; i++)
        if (under_way(&flows[i])) return false;
    return true;
}

static void run_messages(void) {
    uint64_t start = now, end = start + (uint64_t)(o.duration * 1e9), last;
    publishing = true;
    for (uint32_t i = 0; i < flow_count; i++) refill(i);
    if (o.rate > 0)
        publish_by_clock(start, end);
    else
        run_until(end);
    publishing = false;
    for (last = now + (uint64_t)(o.timeout * 1e9); !all_arrived() && now < last;) turn(now + SECOND / 1000);
}

static void run_connects(void) {
    uint64_t end = now + (uint64_t)(o.duration * 1e9), last;
    publishing = true;
    client_count = (uint32_t)o.concurrency;
    for (uint32_t i = 0; i < client_count; i++) open_client(&clients[i]);
    run_until(end);
    publishing = false;
    for (last = now + (uint64_t)(o.timeout * 1e9); ready_count < client_count && now < last;) turn(now + SECOND / 1000);
}

static void arrange(void) {
    bool fanout = !strcmp(o.command, "fanout"), pairs = !strcmp(o.command, "pairs");
    uint32_t total = (uint32_t)(fanout ? o.count + 1 : pairs ? 2 * o.count
                                : !strcmp(o.command, "idle")  ? o.count + WARM
                                                              : o.concurrency);
    flow_count = fanout ? 1 : pairs ? (uint32_t)o.count : 0;
    clients = calloc(total, sizeof *clients);
    dirty = calloc(total, sizeof *dirty);
    flows = calloc(flow_count ? flow_count : total, sizeof *flows);
    missing = fanout ? calloc((size_t)o.inflight, sizeof *missing) : NULL;
    if (!clients || !dirty || !flows || (fanout && !missing)) abort();
    for (uint32_t i = 0; i < total; i++) {
        struct client *c = &clients[i];
        c->number = i;
        c->flow = pairs ? i / 2 : fanout ? 0 : i;
        c->subscriber = pairs ? i % 2 : fanout ? i > 0 : o.subscribe;
        if (c->flow < (flow_count ? flow_count : total))
            snprintf(flows[c->flow].topic, MAX_TEXT, "bench/%s/%u/value", o.prefix, c->flow);
        if (!c->subscriber) flows[c->flow].publisher = c;
    }
    client_count = 0;
    if (fanout || pairs) set_up(total);
    if (!strcmp(o.command, "idle")) set_up(WARM);
}

static void parse(int argc, char **argv) {
    const struct {
        const char *name;
        const char **text;
        long *number, least, most;
        double *real;
    } names[] = {
        {"host", &o.host, NULL, 0, 0, NULL},
        {"prefix", &o.prefix, NULL, 0, 0, NULL},
        {"user", &o.user, NULL, 0, 0, NULL},
        {"password", &o.password, NULL, 0, 0, NULL},
        {"pids", &o.pids, NULL, 0, 0, NULL},
        {"port", NULL, &o.port, 1, 65535, NULL},
        {"count", NULL, &o.count, 1, 1000000, NULL},
        {"size", NULL, &o.size, STAMP, MAX_PACKET / 2, NULL},
        {"qos", NULL, &o.qos, 0, 2, NULL},
        {"inflight", NULL, &o.inflight, 1, 65535, NULL},
        {"clean", NULL, &o.clean, 0, 1, NULL},
        {"version", NULL, &o.version, 4, 5, NULL},
        {"concurrency", NULL, &o.concurrency, 1, 1000, NULL},
        {"subscribe", NULL, &o.subscribe, 0, 1, NULL},
        {"rate", NULL, NULL, 0, 0, &o.rate},
        {"duration", NULL, NULL, 0, 0, &o.duration},
        {"timeout", NULL, NULL, 0, 0, &o.timeout},
    };
    static const char *commands[] = {"fanout", "pairs", "connect", "idle"};
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(argv[1], commands[i])) o.command = commands[i];
    if (!o.command || argc % 2) fail("usage: mqtt_load fanout|pairs|connect|idle [--NAME VALUE ...]");
    for (int i = 2; i < argc; i += 2) {
        size_t n = 0, count = sizeof names / sizeof *names;
        while (n < count && (strncmp(argv[i], "--", 2) || strcmp(argv[i] + 2, names[n].name))) n++;
        if (n == count) fail("unknown option %s", argv[i]);
        char *rest = "";
        if (names[n].text) {
            *names[n].text = argv[i + 1];
        } else if (names[n].real) {
            *names[n].real = strtod(argv[i + 1], &rest);
            if (!(*names[n].real >= 0 && *names[n].real <= 1e7)) rest = "bad";
        } else {
            *names[n].number = strtol(argv[i + 1], &rest, 10);
            if (*names[n].number < names[n].least || *names[n].number > names[n].most) rest = "bad";
        }
        if (*rest) fail("%s %s: not allowed", argv[i], argv[i + 1]);
    }
    if (strlen(o.prefix) > MAX_TEXT / 2) fail("--prefix is longer than %d bytes", MAX_TEXT / 2);
}

int main(int argc, char **argv) {
    struct rlimit files;
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    bool idle = !strcmp(o.command, "idle"), connects = !strcmp(o.command, "connect");

    arrange();
    run_until(read_clock(CLOCK_MONOTONIC) + SETTLE); /* the broker may still have work of the set-up */
    long memory = broker_memory(o.pids);
    double cpu = broker_cpu(o.pids);
    uint64_t start = now, own = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    if (idle)
        set_up((uint32_t)o.count + WARM);
    else if (connects)
        run_connects();
    else
        run_messages();
    double seconds = (double)(now - start) / 1e9;
    double own_cpu = (double)(read_clock(CLOCK_PROCESS_CPUTIME_ID) - own) / 1e9;
    run_until(now + (idle ? SECOND : SETTLE)); /* last acknowledgements belong to the broker's bill */

    uint64_t expected = messages * (missing ? (uint64_t)o.count : 1);
    bool right = deliveries == expected && !duplicates && !misordered && !altered && all_arrived() &&
                 (!connects || ready_count == client_count);
    printf("{\"generator\": \"C\", \"command\": \"%s\", \"version\": %ld, \"qos\": %ld, \"count\": %ld, "
           "\"messages\": %llu, \"expected\": %llu, \"deliveries\": %llu, \"duplicates\": %llu, \"misordered\": %llu, "
           "\"altered\": %llu, \"withheld\": %llu, \"cycles\": %llu, \"seconds\": %.6f, \"own_cpu\": %.6f, "
           "\"broker_cpu\": %.6f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, "
           "\"memory_before\": %ld, \"memory_after\": %ld}\n",
           o.command, o.version, o.qos, o.count, (unsigned long long)messages, (unsigned long long)expected,
           (unsigned long long)deliveries, (unsigned long long)duplicates, (unsigned long long)misordered,
           (unsigned long long)altered, (unsigned long long)withheld, (unsigned long long)cycles, seconds, own_cpu,
           broker_cpu(o.pids) - cpu, percentile(0.5), percentile(0.9), percentile(0.99), (double)slowest / 1e3, memory,
           broker_memory(o.pids));
    return right ? 0 : 1;
}

/* The floor of the benchmarks: what plain epoll and send() cost on this machine, with nothing on top.
 *
 * Frames: 4 bytes length (big endian) of what follows, 1 byte operation, body.
 *   E  the frame goes back as it came      S  the connection joins the group, answered by a frame K
 *   F  the body goes to the group as M
 * usage: floor PORT   (0: any). Prints "port N" once it listens. Ends with SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 65536, MAX_FRAME = 65536, READ_SIZE = 65536 };

struct buffer {
    char *bytes;
    size_t size, room;
};

static struct connection {
    struct buffer partial, unsent;
    int group_index; /* place in group[] + 1, 0 outside */
} connections[MAX_FD];

static int group[MAX_FD], group_size, poller;

static void keep(struct buffer *b, const char *bytes, size_t size) {
    if (b->size + size > b->room) {
        b->room = (b->size + size) * 2;
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes) abort();
    }
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

static void drop(struct buffer *b, size_t size) {
    memmove(b->bytes, b->bytes + size, b->size - size);
    b->size -= size;
    if (!b->size) {
        free(b->bytes);
        memset(b, 0, sizeof *b);
    }
}

static void want(int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e);
}

static void end(int fd) {
    struct connection *c = &connections[fd];
    if (c->group_index) {
        int last = group[--group_size];
        group[c->group_index - 1] = last;
        connections[last].group_index = c->group_index;
    }
    free(c->partial.bytes);
    free(c->unsent.bytes);
    memset(c, 0, sizeof *c);
    close(fd);
}

static void put(int fd, const char *bytes, size_t size) {
    struct connection *c = &connections[fd];
    if (!c->unsent.size) {
        ssize_t sent = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return;
        if (sent < 0) {
            if (errno != EAGAIN) return; /* the next read meets the error */
            sent = 0;
        }
        bytes += sent;
        size -= sent;
        want(fd, EPOLLIN | EPOLLOUT);
    }
    keep(&c->unsent, bytes, size);
}

static void handle(int fd, char *frame, size_t size) {
    switch (frame[4]) {
    case 'E':
        put(fd, frame, size);
        break;
    case 'S':
        if (!connections[fd].group_index) {
            group[group_size++] = fd;
            connections[fd].group_index = group_size;
        }
        put(fd, "\0\0\0\1K", 5);
        break;
    case 'F':
        frame[4] = 'M';
        for (int i = 0; i < group_size; i++) put(group[i], frame, size);
        break;
    }
}

static void on_readable(int fd) {
    static char block[READ_SIZE];
    struct connection *c = &connections[fd];
    ssize_t got = recv(fd, block, sizeof block, MSG_DONTWAIT);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN) return;
        end(fd);
        return;
    }
    keep(&c->partial, block, got);
    size_t at = 0;
    while (c->partial.size - at >= 5) {
        uint32_t length;
        memcpy(&length, c->partial.bytes + at, 4);
        length = ntohl(length);
        if (length < 1 || length > MAX_FRAME) {
            end(fd);
            return;
        }
        if (c->partial.size - at < 4 + (size_t)length) break;
        handle(fd, c->partial.bytes + at, 4 + (size_t)length);
        at += 4 + (size_t)length;
    }
    if (at) drop(&c->partial, at);
}

static void on_writable(int fd) {
    struct connection *c = &connections[fd];
    ssize_t sent = send(fd, c->unsent.bytes, c->unsent.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) drop(&c->unsent, sent);
    if (!c->unsent.size) want(fd, EPOLLIN);
}

static void on_connect(int listener) {
    for (;;) {
        int fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096) ||
        getsockname(listener, (void *)&address, &size)) {
        perror("floor");
        return 1;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, ready[1024];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, ready, 1024, -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) {
                on_connect(fd);
                continue;
            }
            if (ready[i].events & EPOLLOUT) on_writable(fd);
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(fd);
        }
    }
}

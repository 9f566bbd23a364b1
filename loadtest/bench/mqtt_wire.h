/* The little of MQTT 3.1.1 and 5 that a load generator needs: packets out, and the walk over packets in. */
#ifndef MQTT_WIRE_H
#define MQTT_WIRE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CONNECT = 1, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, DISCONNECT = 14 };
enum { SESSION_EXPIRY = 0x11, EXPIRY_SECONDS = 3600, KEEP_ALIVE = 300, FAILURE = 0x80 };

struct buffer {
    uint8_t *bytes;
    size_t size, room;
};

static void put(struct buffer *b, const void *bytes, size_t size) {
    if (b->size + size > b->room) {
        b->room = (b->size + size) * 2;
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes) abort();
    }
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

/* Removes the first `size` bytes. An empty buffer gives its memory back: ten thousand idle clients hold none. */
static void drop(struct buffer *b, size_t size) {
    b->size -= size;
    if (b->size) {
        memmove(b->bytes, b->bytes + size, b->size);
        return;
    }
    free(b->bytes);
    *b = (struct buffer){0};
}

static void put8(struct buffer *b, unsigned value) { put(b, &(uint8_t){(uint8_t)value}, 1); }

static void put16(struct buffer *b, unsigned value) {
    put8(b, value >> 8);
    put8(b, value);
}

static void put_text(struct buffer *b, const char *text) {
    put16(b, (unsigned)strlen(text));
    put(b, text, strlen(text));
}

/* First byte and Remaining Length. */
static void put_head(struct buffer *b, unsigned first, size_t length) {
    put8(b, first);
    do {
        put8(b, (unsigned)(length % 128) | (length >= 128 ? 128u : 0u));
    } while (length /= 128);
}

static void put_connect(struct buffer *b, int version, bool clean, const char *id, const char *user,
                        const char *password) {
    struct buffer body = {0};
    put_text(&body, "MQTT");
    put8(&body, (unsigned)version);
    put8(&body, (clean ? 0x02u : 0u) | (*user ? 0x80u : 0u) | (*password ? 0x40u : 0u));
    put16(&body, KEEP_ALIVE);
    if (version == 5 && clean) put8(&body, 0);
    if (version == 5 && !clean) {
        /* Clean Start alone keeps nothing in version 5: the session lives as long as its expiry says. */
        put8(&body, 5);
        put8(&body, SESSION_EXPIRY);
        put16(&body, 0);
        put16(&body, EXPIRY_SECONDS);
    }
    put_text(&body, id);
    if (*user) put_text(&body, user);
    if (*password) put_text(&body, password);
    put_head(b, CONNECT << 4, body.size);
    put(b, body.bytes, body.size);
    drop(&body, body.size);
}

static void put_subscribe(struct buffer *b, int version, const char *filter, int qos) {
    put_head(b, SUBSCRIBE << 4 | 2, 2 + (version == 5) + 2 + strlen(filter) + 1);
    put16(b, 1);
    if (version == 5) put8(b, 0);
    put_text(b, filter);
    put8(b, (unsigned)qos);
}

static void put_publish(struct buffer *b, int version, const char *topic, int qos, unsigned packet_id,
                        const void *payload, size_t size) {
    put_head(b, (unsigned)(PUBLISH << 4 | qos << 1), 2 + strlen(topic) + (qos ? 2u : 0u) + (version == 5) + size);
    put_text(b, topic);
    if (qos) put16(b, packet_id);
    if (version == 5) put8(b, 0);
    put(b, payload, size);
}

/* PUBACK, PUBREC, PUBREL and PUBCOMP; without a reason code they are the same in both versions. */
static void put_ack(struct buffer *b, unsigned type, unsigned packet_id) {
    put_head(b, type << 4 | (type == PUBREL ? 2u : 0u), 2);
    put16(b, packet_id);
}

/* A variable byte integer at bytes[*at]; false: more bytes are needed. Longer than four bytes is for the caller
 * to see: *value is then larger than any length allowed. */
static bool take_length(const uint8_t *bytes, size_t size, size_t *at, size_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
        if (*at >= size) return false;
        uint8_t byte = bytes[(*at)++];
        *value |= (size_t)(byte & 127) << shift;
        if (!(byte & 128)) return true;
    }
    *value = SIZE_MAX;
    return true;
}

static unsigned take16(const uint8_t *bytes) { return (unsigned)bytes[0] << 8 | bytes[1]; }

#endif

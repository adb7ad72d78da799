/*
 * A broadcast without a framework: one epoll loop, and one write for each message and member.
 * Argument: the port. /echo returns messages to their sender.
 *
 * It shows the cost of the writes in the kernel. It validates little and is not for production: a
 * member whose socket does not accept a whole message is disconnected.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_FILES 20000
#define READ_BYTES (1 << 20)

typedef struct {
    int upgraded, echoes;
    int place; /* among the members */
    uint8_t *unparsed;
    uint32_t unparsed_bytes;
} client;

static client clients[MAX_FILES];
static int members[MAX_FILES], member_count;
static uint8_t input[2 * READ_BYTES], output[2 * READ_BYTES];

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

/* SHA-1 of fewer than 120 bytes (RFC 3174). */
static void sha1(const char *text, uint8_t digest[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t padded[128] = {0};
    size_t size = strlen(text), total = size < 56 ? 64 : 128;
    memcpy(padded, text, size);
    padded[size] = 0x80;
    for (int k = 0; k < 8; k++) padded[total - 1 - (size_t)k] = (uint8_t)((size * 8) >> (8 * k));
    for (const uint8_t *block = padded; block < padded + total; block += 64) {
        uint32_t w[80];
        for (int t = 0; t < 16; t++)
            w[t] = (uint32_t)block[4 * t] << 24 | (uint32_t)block[4 * t + 1] << 16 |
                   (uint32_t)block[4 * t + 2] << 8 | block[4 * t + 3];
        for (int t = 16; t < 80; t++)
            w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int t = 0; t < 80; t++) {
            uint32_t f, k;
            if (t < 20) {
                f = (b & c) | (~b & d);
                k = 0x5A827999;
            } else if (t < 40) {
                f = b ^ c ^ d;
                k = 0x6ED9EBA1;
            } else if (t < 60) {
                f = (b & c) | (b & d) | (c & d);
                k = 0x8F1BBCDC;
            } else {
                f = b ^ c ^ d;
                k = 0xCA62C1D6;
            }
            uint32_t next = rotate(a, 5) + f + e + k + w[t];
            e = d;
            d = c;
            c = rotate(b, 30);
            b = a;
            a = next;
        }
        h[0] += a;
        h[1] += b;
        h[2] += c;
        h[3] += d;
        h[4] += e;
    }
    for (int k = 0; k < 20; k++) digest[k] = (uint8_t)(h[k / 4] >> (24 - 8 * (k % 4)));
}

/* Base64 of 20 bytes. */
static void base64(const uint8_t digest[20], char text[29]) {
    const char *letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t padded[21] = {0};
    memcpy(padded, digest, 20);
    for (int k = 0; k < 28; k++) {
        int bit = 6 * k, at = bit / 8;
        uint32_t pair = (uint32_t)padded[at] << 8 | (at < 20 ? padded[at + 1] : 0);
        text[k] = letters[pair >> (10 - bit % 8) & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

static void leave(int fd) {
    client *c = &clients[fd];
    if (c->upgraded && !c->echoes) {
        int last = members[--member_count];
        members[c->place] = last;
        clients[last].place = c->place;
    }
    free(c->unparsed);
    *c = (client){0};
    close(fd);
}

static void put(int fd, const void *data, size_t size) {
    if (send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size) shutdown(fd, SHUT_RDWR);
}

/* Answer a handshake; returns whether it is valid. */
static int upgrade(int fd, char *request) {
    client *c = &clients[fd];
    char *key = strcasestr(request, "sec-websocket-key: ");
    if (!key || !strstr(request, "\r\n\r\n")) return 0;
    char text[80], accept[29], response[200];
    uint8_t digest[20];
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
    sha1(text, digest);
    base64(digest, accept);
    int size = snprintf(response, sizeof response,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                        accept);
    put(fd, response, (size_t)size);
    c->upgraded = 1;
    c->echoes = !strncmp(request, "GET /echo ", 10);
    if (!c->echoes) {
        c->place = member_count;
        members[member_count++] = fd;
    }
    return 1;
}

static void pass_on(int fd, const uint8_t *payload, uint32_t size) {
    uint32_t head = size < 126 ? 2 : 4;
    output[0] = 0x81;
    output[1] = (uint8_t)(size < 126 ? size : 126);
    if (head == 4) {
        output[2] = (uint8_t)(size >> 8);
        output[3] = (uint8_t)size;
    }
    memcpy(output + head, payload, size);
    if (clients[fd].echoes) {
        put(fd, output, head + size);
        return;
    }
    for (int k = 0; k < member_count; k++) put(members[k], output, head + size);
}

/* Forward the complete frames; returns their size in bytes, -1 at the end. */
static int64_t parse(int fd, uint8_t *data, uint32_t size) {
    uint32_t at = 0;
    while (size - at >= 6) {
        uint8_t *frame = data + at;
        uint32_t length = frame[1] & 0x7f, head = 6;
        if (length == 127 || (frame[0] & 0x0f) == 8) return -1;
        if (length == 126) {
            length = (uint32_t)frame[2] << 8 | frame[3];
            head = 8;
        }
        if (size - at < head + length) break;
        uint8_t *mask = frame + head - 4, *payload = frame + head;
        for (uint32_t k = 0; k < length; k++) payload[k] ^= mask[k & 3];
        if ((frame[0] & 0x0f) == 1) pass_on(fd, payload, length);
        at += head + length;
    }
    return at;
}

static void on_readable(int fd) {
    client *c = &clients[fd];
    uint32_t size = c->unparsed_bytes;
    if (size) memcpy(input, c->unparsed, size);
    ssize_t got = recv(fd, input + size, READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        leave(fd);
        return;
    }
    size += (uint32_t)got;
    if (!c->upgraded) {
        input[size] = 0;
        if (!upgrade(fd, (char *)input)) leave(fd);
        return;
    }
    int64_t used = parse(fd, input, size);
    if (used < 0) {
        leave(fd);
        return;
    }
    c->unparsed_bytes = size - (uint32_t)used;
    if (!c->unparsed_bytes) return;
    c->unparsed = realloc(c->unparsed, c->unparsed_bytes);
    if (!c->unparsed) abort();
    memcpy(c->unparsed, input + used, c->unparsed_bytes);
}

static void welcome(int listener, int epoll) {
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    if (fd >= MAX_FILES) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0)),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("epoll_loop");
        return 1;
    }
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int k = 0; k < count; k++) {
            int fd = events[k].data.fd;
            if (fd == listener)
                welcome(listener, epoll);
            else
                on_readable(fd);
        }
    }
}

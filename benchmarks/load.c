/*
 * The hot path of the load generator: many WebSocket connections in one thread and one epoll loop.
 * `load.py` drives it through ctypes.
 *
 * It does not sleep during a measurement, unless told to leave its core to others: waking it would
 * cost the server's core time.
 *
 * A message carries a mark, "@T<19 digits>S<10 digits>@": when it was sent (CLOCK_MONOTONIC, in
 * nanoseconds) and its number. JSON escapes none of its characters, so it survives nesting.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull
#define RECV_BYTES (256 * 1024)
#define SLOW_RECV_BYTES (16 * 1024)
#define MAX_EVENTS 1024
#define MAX_BURST 64 /* messages in one write of the publisher */

#define MARK_BYTES 33
#define MARK_TIME 2
#define MARK_SEQUENCE 22

/* These two are repeated in load.py. */
#define SUB_BUCKETS 64 /* per power of two: latencies are accurate to 1.6 % */
#define BUCKETS (64 * SUB_BUCKETS)

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };
enum { NO_STATUS = 1005, NO_CLOSE_FRAME = 1006 };

typedef struct {
    double seconds;  /* from the first send, or connect, to the last delivery */
    double busy;     /* the share of that time spent on events */
    uint64_t sent, expected;
    uint64_t received;   /* deliveries, each counted once */
    uint64_t duplicates;
    uint64_t late;       /* deliveries that came after one with a higher number */
    uint64_t other;      /* other messages than deliveries of this run */
    uint64_t closed;     /* connections that the server closed */
    uint64_t refused;    /* handshakes that failed */
    uint64_t max_ns;
    uint64_t latency[BUCKETS];
    char error[200]; /* the first one */
} result;

typedef struct {
    uint8_t *data;
    uint32_t size, capacity;
} buffer;

typedef struct step {
    struct step *next;
    int sends; /* send the text, or else wait for a message that contains it */
    uint32_t size;
    uint8_t text[];
} step;

typedef struct {
    enum { NEW, CONNECTING, UPGRADING, GREETING, READY, CLOSED } state;
    int fd, port;
    in_addr_t source; /* the client's address */
    int stalled;
    int raw;         /* the message is sent as it is, and not in a text frame */
    int close_code;  /* of the server's close frame, 1006 without one, -errno after an error */
    step *steps;     /* after the upgrade, until the connection is ready */
    step *pending;   /* the next one */
    buffer request;  /* the handshake */
    buffer unparsed; /* the beginning of a frame */
    buffer unsent;   /* not accepted by the socket yet */
    buffer before;   /* sent before each message */
    buffer message;  /* the message to publish */
    uint8_t *mark;   /* inside the message */
    int64_t newest;  /* the highest number received */
    uint64_t seen;   /* bit n: number newest - n was received */
    uint64_t rounds_left;
} connection;

typedef struct {
    int epoll;
    int count;
    connection *connections;
    buffer incoming;
    buffer burst;
    uint8_t accept[64];
    uint32_t accept_size;
    buffer asked, answer; /* prefix of messages to answer, and the answer */
    uint32_t mask;
    int patience_ms; /* maximum sleep when idle */
    int recv_bytes;  /* maximum of one read, and hint for the size of the system's buffer */
    uint32_t mark_at; /* where the last delivery had its mark */
    enum { QUIET, FANOUT, ECHO } mode;
    int handshakes, ready, failed, closed, reading;
    int waiting; /* connections waiting for an echo */
    uint64_t bytes_sent, bytes_received; /* over all connections, since the beginning */
    uint64_t first; /* the number of this run's first message */
    uint64_t now, start, last_delivery, busy_ns;
    result *result;
} load;

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static void fail(load *l, const char *format, ...) {
    if (!l->result || l->result->error[0]) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(l->result->error, sizeof l->result->error, format, arguments);
    va_end(arguments);
}

static void reserve(buffer *b, uint32_t size) {
    if (size <= b->capacity) return;
    uint32_t capacity = b->capacity ? b->capacity : 256;
    while (capacity < size) capacity *= 2;
    b->data = realloc(b->data, capacity);
    if (!b->data) abort();
    b->capacity = capacity;
}

static void append(buffer *b, const uint8_t *data, uint32_t size) {
    reserve(b, b->size + size);
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void clear(buffer *b) {
    free(b->data);
    *b = (buffer){0};
}

static void watch(load *l, int i, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)i};
    epoll_ctl(l->epoll, operation, l->connections[i].fd, &event);
}

/* ---- Writing ------------------------------------------------------------------------------- */

/* The code is 0 if the server did not end the connection. */
static void end(load *l, connection *c, int code) {
    if (c->state == READY) {
        l->ready--;
        l->closed += code != 0;
        if (!c->stalled) l->reading--;
    } else if (c->state != NEW && c->state != CLOSED) {
        l->handshakes--;
        l->failed += code != 0;
    }
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->close_code = code;
    clear(&c->unparsed);
    clear(&c->unsent);
}

static void write_bytes(load *l, int i, const uint8_t *data, uint32_t size) {
    connection *c = &l->connections[i];
    if (c->fd < 0) return;
    ssize_t done = 0;
    if (!c->unsent.size) {
        done = send(c->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done < 0 && errno != EAGAIN) {
            end(l, c, -errno);
            return;
        }
        if (done < 0) done = 0;
        l->bytes_sent += (uint64_t)done;
        if (done == size) return;
        watch(l, i, EPOLL_CTL_MOD, c->stalled ? EPOLLOUT : EPOLLIN | EPOLLOUT);
    }
    append(&c->unsent, data + done, size - (uint32_t)done);
}

static void write_unsent(load *l, int i) {
    connection *c = &l->connections[i];
    ssize_t done = send(c->fd, c->unsent.data, c->unsent.size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0) {
        if (errno != EAGAIN) end(l, c, -errno);
        return;
    }
    l->bytes_sent += (uint64_t)done;
    c->unsent.size -= (uint32_t)done;
    memmove(c->unsent.data, c->unsent.data + done, c->unsent.size);
    if (!c->unsent.size) watch(l, i, EPOLL_CTL_MOD, c->stalled ? 0 : EPOLLIN);
}

/* Clients must mask their frames (RFC 6455 section 5.3). */
static void append_frame(load *l, buffer *out, int opcode, const uint8_t *data, uint32_t size) {
    uint8_t head[14], *h = head;
    *h++ = (uint8_t)(0x80 | opcode);
    if (size < 126) {
        *h++ = (uint8_t)(0x80 | size);
    } else if (size < 65536) {
        *h++ = 0x80 | 126;
        *h++ = (uint8_t)(size >> 8);
        *h++ = (uint8_t)size;
    } else {
        *h++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) *h++ = (uint8_t)((uint64_t)size >> shift);
    }
    l->mask = l->mask * 1664525u + 1013904223u;
    uint8_t mask[4];
    memcpy(mask, &l->mask, 4);
    memcpy(h, mask, 4);
    append(out, head, (uint32_t)(h + 4 - head));
    append(out, data, size);
    uint8_t *payload = out->data + out->size - size;
    for (uint32_t k = 0; k < size; k++) payload[k] ^= mask[k & 3];
}

static void write_message(load *l, int i, int opcode, const uint8_t *data, uint32_t size) {
    l->burst.size = 0;
    append_frame(l, &l->burst, opcode, data, size);
    write_bytes(l, i, l->burst.data, l->burst.size);
}

static void put_digits(uint8_t *to, int width, uint64_t value) {
    while (width--) {
        to[width] = (uint8_t)('0' + value % 10);
        value /= 10;
    }
}

static uint64_t digits(const uint8_t *from, int width) {
    uint64_t value = 0;
    while (width--) value = value * 10 + (uint64_t)(*from++ - '0');
    return value;
}

static void stamp(connection *c, uint64_t time, uint64_t number) {
    put_digits(c->mark + MARK_TIME, 19, time);
    put_digits(c->mark + MARK_SEQUENCE, 10, number);
}

static void append_message(load *l, connection *c) {
    if (c->before.size) append_frame(l, &l->burst, TEXT, c->before.data, c->before.size);
    if (c->raw)
        append(&l->burst, c->message.data, c->message.size);
    else
        append_frame(l, &l->burst, TEXT, c->message.data, c->message.size);
}

static void next_round(load *l, int i) {
    connection *c = &l->connections[i];
    if (!c->rounds_left) {
        l->waiting--;
        return;
    }
    c->rounds_left--;
    c->newest = (int64_t)l->result->sent;
    stamp(c, clock_ns(), l->result->sent++);
    l->burst.size = 0;
    append_message(l, c);
    write_bytes(l, i, l->burst.data, l->burst.size);
}

/* ---- Reading ------------------------------------------------------------------------------- */

static void record_latency(result *r, uint64_t ns) {
    uint64_t bucket = ns;
    if (ns >= SUB_BUCKETS) {
        int shift = 63 - __builtin_clzll(ns) - 6;
        bucket = (uint64_t)(shift + 1) * SUB_BUCKETS + ((ns >> shift) - SUB_BUCKETS);
    }
    r->latency[bucket]++;
    if (ns > r->max_ns) r->max_ns = ns;
}

/* Whether a number is received for the first time; unknown for very late ones. */
static int is_new(connection *c, int64_t number, result *r) {
    if (number > c->newest) {
        int64_t step = number - c->newest;
        c->seen = (step < 64 ? c->seen << step : 0) | 1;
        c->newest = number;
        return 1;
    }
    int64_t back = c->newest - number;
    uint64_t bit = back < 64 ? 1ull << back : 0;
    if (c->seen & bit) {
        r->duplicates++;
        return 0;
    }
    c->seen |= bit;
    r->late++;
    return 1;
}

static void on_delivery(load *l, int i, const uint8_t *mark) {
    connection *c = &l->connections[i];
    result *r = l->result;
    uint64_t sent_at = digits(mark + MARK_TIME, 19);
    uint64_t number = digits(mark + MARK_SEQUENCE, 10);
    if (l->mode == ECHO) {
        if ((int64_t)number != c->newest) {
            r->other++;
            return;
        }
    } else if (number < l->first) { /* left over from an earlier run */
        r->other++;
        return;
    } else if (!is_new(c, (int64_t)(number - l->first), r)) {
        return;
    }
    r->received++;
    l->last_delivery = l->now;
    record_latency(r, l->now > sent_at ? l->now - sent_at : 0);
    if (l->mode == ECHO) next_round(l, i);
}

static const uint8_t *find_mark(load *l, const uint8_t *data, uint32_t size) {
    if (l->mark_at + MARK_BYTES > size || memcmp(data + l->mark_at, "@T", 2)) {
        const uint8_t *found = memmem(data, size, "@T", 2);
        if (!found || found + MARK_BYTES > data + size) return NULL;
        l->mark_at = (uint32_t)(found - data);
    }
    const uint8_t *mark = data + l->mark_at;
    return mark[MARK_SEQUENCE - 1] == 'S' && mark[MARK_BYTES - 1] == '@' ? mark : NULL;
}

static void greet(load *l, int i) {
    connection *c = &l->connections[i];
    while (c->pending && c->pending->sends) {
        write_message(l, i, TEXT, c->pending->text, c->pending->size);
        if (c->state == CLOSED) return;
        c->pending = c->pending->next;
    }
    if (c->pending) return;
    c->state = READY;
    l->handshakes--;
    l->ready++;
    if (c->stalled)
        watch(l, i, EPOLL_CTL_MOD, c->unsent.size ? EPOLLOUT : 0);
    else
        l->reading++;
}

static void on_text(load *l, int i, const uint8_t *data, uint32_t size) {
    connection *c = &l->connections[i];
    if (c->state == GREETING) {
        if (memmem(data, size, c->pending->text, c->pending->size)) {
            c->pending = c->pending->next;
            greet(l, i);
        }
        return;
    }
    if (c->stalled) return;
    const uint8_t *mark = find_mark(l, data, size);
    if (mark) {
        if (l->mode != QUIET) on_delivery(l, i, mark);
    } else if (l->asked.size && size >= l->asked.size &&
               !memcmp(data, l->asked.data, l->asked.size)) {
        write_message(l, i, TEXT, l->answer.data, l->answer.size);
    } else if (l->result) {
        l->result->other++;
    }
}

static void on_frame(load *l, int i, uint8_t head, const uint8_t *data, uint32_t size) {
    int opcode = head & 0x0f;
    if (opcode == PING) {
        write_message(l, i, PONG, data, size);
    } else if (opcode == CLOSE) {
        connection *c = &l->connections[i];
        int code = size >= 2 ? data[0] << 8 | data[1] : NO_STATUS;
        if (c->state == GREETING) fail(l, "closed with %d before it was ready", code);
        write_message(l, i, CLOSE, data, size < 2 ? 0 : 2);
        end(l, c, code);
    } else if (opcode != PONG) {
        /* No measured server sends these; ignoring them would count deliveries as missing. */
        if (head != (0x80 | TEXT) && head != (0x80 | 2))
            fail(l, "cannot read a compressed message, or one in several frames");
        on_text(l, i, data, size);
    }
}

static uint32_t parse_upgrade(load *l, int i, const uint8_t *data, uint32_t size) {
    connection *c = &l->connections[i];
    const uint8_t *blank = memmem(data, size, "\r\n\r\n", 4);
    if (!blank) return 0;
    uint32_t head = (uint32_t)(blank - data);
    if (head < 12 || memcmp(data + 8, " 101", 4) ||
        !memmem(data, head, l->accept, l->accept_size)) {
        fail(l, "refused: %.*s", (int)strcspn((const char *)data, "\r\n"), (const char *)data);
        end(l, c, NO_CLOSE_FRAME);
        return size;
    }
    c->state = GREETING;
    greet(l, i);
    return head + 4;
}

/* Return how many bytes were complete frames. */
static uint32_t parse(load *l, int i, const uint8_t *data, uint32_t size) {
    connection *c = &l->connections[i];
    uint32_t at = 0;
    if (c->state == UPGRADING && !(at = parse_upgrade(l, i, data, size))) return 0;
    while (c->state != CLOSED && size - at >= 2) {
        const uint8_t *frame = data + at;
        uint64_t length = frame[1] & 0x7f;
        uint32_t head = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (size - at < head) break;
        if (head > 2) {
            length = 0;
            for (uint32_t k = 2; k < head; k++) length = length << 8 | frame[k];
        }
        if (size - at < head + length) break;
        on_frame(l, i, frame[0], frame + head, (uint32_t)length);
        at += head + (uint32_t)length;
    }
    return at;
}

static void on_readable(load *l, int i) {
    connection *c = &l->connections[i];
    buffer *in = &l->incoming;
    in->size = 0;
    append(in, c->unparsed.data, c->unparsed.size);
    reserve(in, in->size + (uint32_t)l->recv_bytes + 1);
    ssize_t got = recv(c->fd, in->data + in->size, (size_t)l->recv_bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (c->state != READY) fail(l, got ? strerror(errno) : "closed during the handshake");
        end(l, c, got ? -errno : NO_CLOSE_FRAME);
        return;
    }
    l->bytes_received += (uint64_t)got;
    in->size += (uint32_t)got;
    in->data[in->size] = 0;
    uint32_t used = parse(l, i, in->data, in->size);
    if (c->state == CLOSED) return;
    c->unparsed.size = 0;
    append(&c->unparsed, in->data + used, in->size - used);
}

static void on_connected(load *l, int i) {
    connection *c = &l->connections[i];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail(l, "cannot connect: %s", strerror(error));
        end(l, c, -error);
        return;
    }
    c->state = UPGRADING;
    watch(l, i, EPOLL_CTL_MOD, EPOLLIN);
    write_bytes(l, i, c->request.data, c->request.size);
}

static void on_event(load *l, int i, uint32_t events) {
    connection *c = &l->connections[i];
    if (c->state == CLOSED) return;
    if (c->state == CONNECTING) {
        on_connected(l, i);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(l, i);
    if (c->state != CLOSED && c->unsent.size && events & EPOLLOUT) write_unsent(l, i);
}

static int turn(load *l, int timeout_ms) {
    struct epoll_event events[MAX_EVENTS];
    int count = epoll_wait(l->epoll, events, MAX_EVENTS, timeout_ms);
    uint64_t begin = l->now = clock_ns();
    for (int k = 0; k < count; k++) {
        if (k % 16 == 15) l->now = clock_ns();
        on_event(l, (int)events[k].data.u32, events[k].events);
    }
    if (count > 0) {
        l->now = clock_ns();
        l->busy_ns += l->now - begin;
    }
    return count;
}

/* ---- Interface of load.py ------------------------------------------------------------------ */

load *load_new(const char *accept) {
    load *l = calloc(1, sizeof *l);
    if (!l) abort();
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->mask = (uint32_t)clock_ns();
    l->recv_bytes = RECV_BYTES;
    l->accept_size = (uint32_t)snprintf((char *)l->accept, sizeof l->accept, "%s", accept);
    return l;
}

/* Add a connection from an address of this machine to 127.0.0.1, and return its index. */
int load_add(load *l, int port, const char *source, const uint8_t *request, uint32_t size) {
    l->connections = realloc(l->connections, (size_t)(l->count + 1) * sizeof *l->connections);
    if (!l->connections) abort();
    connection *c = &l->connections[l->count];
    *c = (connection){.fd = -1, .port = port, .source = inet_addr(source)};
    append(&c->request, request, size);
    return l->count++;
}

/* Add a step after the upgrade: send the text, or wait for a message that contains it. */
void load_step(load *l, int i, int sends, const uint8_t *text, uint32_t size) {
    step *new = malloc(sizeof *new + size), **last = &l->connections[i].steps;
    if (!new) abort();
    *new = (step){.sends = sends, .size = size};
    memcpy(new->text, text, size);
    while (*last) last = &(*last)->next;
    *last = new;
}

/* Set the message of connection `i`; returns -1 if it has no mark. Raw frames need none. */
int load_message(load *l, int i, int raw, const uint8_t *text, uint32_t size) {
    connection *c = &l->connections[i];
    c->raw = raw;
    c->message.size = 0;
    append(&c->message, text, size);
    c->mark = memmem(c->message.data, size, "@T", 2);
    if (raw) c->mark = NULL;
    return raw || (c->mark && c->mark + MARK_BYTES <= c->message.data + size) ? 0 : -1;
}

void load_answer(load *l, const uint8_t *asked, uint32_t asked_size, const uint8_t *answer,
                 uint32_t answer_size) {
    append(&l->asked, asked, asked_size);
    append(&l->answer, answer, answer_size);
}

void load_before(load *l, int i, const uint8_t *text, uint32_t size) {
    append(&l->connections[i].before, text, size);
}

static void begin(load *l, int mode, result *r) {
    memset(r, 0, sizeof *r);
    l->result = r;
    l->mode = mode;
    l->busy_ns = 0;
    l->closed = l->failed = 0;
    for (int i = 0; i < l->count; i++) l->connections[i].newest = -1;
    l->start = l->now = l->last_delivery = clock_ns();
}

static void finish(load *l, uint64_t end_ns) {
    result *r = l->result;
    uint64_t ns = end_ns > l->start ? end_ns - l->start : 1;
    uint64_t all = l->now > l->start ? l->now - l->start : 1;
    r->seconds = (double)ns / (double)SECOND_NS;
    r->busy = (double)l->busy_ns / (double)all;
    r->closed = (uint64_t)l->closed;
    r->refused = (uint64_t)l->failed;
    l->result = NULL;
    l->mode = QUIET;
}

static uint64_t after(load *l, double seconds) {
    return l->start + (uint64_t)(seconds * (double)SECOND_NS);
}

static void start_connecting(load *l, int i) {
    connection *c = &l->connections[i];
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = c->source};
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)c->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int one = 1;
    c->state = CONNECTING;
    c->close_code = 0;
    c->pending = c->steps;
    l->handshakes++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* Let the system choose the port later, when it knows both ends. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (l->recv_bytes < RECV_BYTES)
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &l->recv_bytes, sizeof l->recv_bytes);
    if (c->fd < 0 || bind(c->fd, (struct sockaddr *)&source, sizeof source) < 0 ||
        (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 &&
         errno != EINPROGRESS)) {
        fail(l, "cannot connect: %s", strerror(errno));
        end(l, c, -errno);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(l, i, EPOLL_CTL_ADD, EPOLLOUT);
}

/* Open all connections, with at most `handshakes` in flight; `received` counts ready ones. */
void load_connect(load *l, int handshakes, double timeout_s, result *r) {
    begin(l, QUIET, r);
    int next = 0;
    while (l->ready + l->failed + l->closed < l->count && l->now < after(l, timeout_s)) {
        while (l->handshakes < handshakes && next < l->count) start_connecting(l, next++);
        turn(l, 1);
    }
    if (l->ready < l->count) fail(l, l->closed ? "the server closed a connection" : "timed out");
    r->expected = (uint64_t)l->count;
    r->received = (uint64_t)l->ready;
    finish(l, l->now);
}

/* Whether any of the first connections is closed. */
static int lost(load *l, int publishers) {
    for (int i = 0; i < publishers; i++)
        if (l->connections[i].state != READY) return 1;
    return 0;
}

/*
 * Publish `count` messages, in turn on the first connections.
 *
 * With a rate of 0, at most `window` messages are in flight: sent, and not yet received by the mean
 * connection. With a rate, a message is due every 1/rate seconds regardless of earlier ones, and
 * stamped with its due time: a server that falls behind cannot hide the delay ("coordinated
 * omission"). If `own`, each is for its sender alone.
 *
 * Ends when everything has arrived, when nothing has for `quiet_s` (0: never), or after timeout_s.
 */
void load_fanout(load *l, int publishers, uint64_t first, uint64_t count, int window, double rate,
                 int own, double quiet_s, double timeout_s, result *r) {
    begin(l, FANOUT, r);
    l->first = first;
    uint64_t readers = own ? 1 : (uint64_t)l->reading, deadline = after(l, timeout_s);
    uint64_t gap = rate > 0 ? (uint64_t)((double)SECOND_NS / rate) : 0, last_send = l->start;
    uint64_t quiet = (uint64_t)(quiet_s * (double)SECOND_NS);
    while (l->now < deadline && !lost(l, publishers)) {
        uint64_t allowed = gap ? (l->now - l->start) / gap + 1
                               : (readers ? r->received / readers : 0) + (uint64_t)window;
        if (allowed > count) allowed = count;
        l->burst.size = 0;
        for (int k = 0; k < MAX_BURST && r->sent < allowed; k++) {
            int publisher = (int)(r->sent % (uint64_t)publishers);
            connection *c = &l->connections[publisher];
            stamp(c, gap ? l->start + gap * r->sent : l->now, first + r->sent);
            append_message(l, c);
            r->sent++;
            last_send = l->now;
            if (publishers > 1 || k == MAX_BURST - 1 || r->sent == allowed) {
                write_bytes(l, publisher, l->burst.data, l->burst.size);
                l->burst.size = 0;
            }
        }
        turn(l, l->patience_ms);
        if (r->sent == count && r->received >= count * readers) break;
        if (quiet && l->now > last_send + quiet && l->now > l->last_delivery + quiet) break;
    }
    if (lost(l, publishers)) fail(l, "the server closed a publisher's connection");
    r->expected = r->sent * readers;
    finish(l, l->last_delivery);
}

/* Send on every connection, wait for its own message, and repeat. */
void load_echo(load *l, uint64_t rounds, double timeout_s, result *r) {
    begin(l, ECHO, r);
    l->waiting = l->ready;
    r->expected = rounds * (uint64_t)l->ready;
    for (int i = 0; i < l->count; i++) {
        if (l->connections[i].state != READY) continue;
        l->connections[i].rounds_left = rounds;
        next_round(l, i);
    }
    while (l->waiting && !l->closed && l->now < after(l, timeout_s)) turn(l, 0);
    if (l->closed) fail(l, "the server closed a connection");
    finish(l, l->last_delivery);
}

/*
 * In turn, let each connection send its message; `burst` times at once, and then at a rate. One that
 * the server has closed connects again. So does each connection that has no message, every time.
 */
void load_attack(load *l, uint64_t burst, double rate, double seconds, result *r) {
    begin(l, QUIET, r);
    while (l->now < after(l, seconds)) {
        uint64_t due = burst + (uint64_t)((double)(l->now - l->start) / (double)SECOND_NS * rate);
        for (int k = 0; k < MAX_BURST && r->sent < due; k++) {
            int i = (int)(r->sent++ % (uint64_t)l->count);
            connection *c = &l->connections[i];
            if (!c->message.size || c->state == NEW || c->state == CLOSED) {
                end(l, c, 0);
                start_connecting(l, i);
            } else if (c->state == READY) {
                if (c->mark) stamp(c, l->now, 0);
                l->burst.size = 0;
                append_message(l, c);
                write_bytes(l, i, l->burst.data, l->burst.size);
            }
        }
        turn(l, l->patience_ms);
    }
    finish(l, l->now);
}

/* Read, and answer pings, without a load; returns the number of events. */
int load_idle(load *l, double seconds) {
    int events = 0, count;
    l->start = l->now = clock_ns();
    do {
        count = turn(l, 5);
        if (count > 0) events += count;
    } while (l->now < after(l, seconds));
    return events;
}

void load_patience(load *l, int patience_ms) { l->patience_ms = patience_ms; }

/* Read few bytes at once, and let the system buffer few, on connections that are not open yet. */
void load_slow(load *l) { l->recv_bytes = SLOW_RECV_BYTES; }

/* Stop reading from a connection as soon as it is ready, or resume. */
void load_stall(load *l, int i, int stalled) {
    connection *c = &l->connections[i];
    if (c->stalled == stalled) return;
    c->stalled = stalled;
    if (c->state != READY) return;
    l->reading += stalled ? -1 : 1;
    watch(l, i, EPOLL_CTL_MOD, (stalled ? 0 : EPOLLIN) | (c->unsent.size ? EPOLLOUT : 0));
}

/* The end of a connection: see `close_code`; 0 while it is open. */
int load_close_code(load *l, int i) { return l->connections[i].close_code; }

uint64_t load_bytes_sent(load *l) { return l->bytes_sent; }

uint64_t load_bytes_received(load *l) { return l->bytes_received; }

void load_free(load *l) {
    for (int i = 0; i < l->count; i++) {
        connection *c = &l->connections[i];
        if (c->state != CLOSED) end(l, c, 0);
        while (c->steps) {
            step *next = c->steps->next;
            free(c->steps);
            c->steps = next;
        }
        clear(&c->request);
        clear(&c->before);
        clear(&c->message);
    }
    close(l->epoll);
    clear(&l->incoming);
    clear(&l->burst);
    clear(&l->asked);
    clear(&l->answer);
    free(l->connections);
    free(l);
}

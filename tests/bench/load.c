/* The generator: sends numbered messages over TCP, TLS or HTTP, as fast as the peer takes them or at a rate.
 *
 *     load mode=tcp|http port=N connections=8 tokens=FILE seconds=5 [messages=N] [rate=N] [chunk=20] [message_bytes=200]
 *          [base=0] [lf=0|1] [dialect=0|1] [tls=1] [per_request=500] [authorization=TEXT]
 *
 * base: the number of the first connection, so that the numbers of several generators do not meet.
 * tokens: a line per token, `TOKEN CHANNEL`, the channel being its number in the check.
 * A chunk of frames is laid out once per connection; per message only digits and the token are written anew.
 * HTTP: a connection sends its next request when the answer to the last one is there. Every message of a request
 * belongs to one token, which signs the request, unless an authorization (of a credential) is given: then they mix.
 */
#include "common.h"

#define TOKEN_BYTES 38
static int64_t chunk_frames; /* of one write over TCP */

struct token { char id[TOKEN_BYTES]; char basic[64]; int channel; };
static struct token *tokens;
static int64_t token_count;

static struct { int frame, token, process, micros, mark, text; } at; /* offsets in a frame; its length, its text's */
static char frame_template[70000];

static struct connection {
    struct wire wire;
    int number;
    int64_t messages, requests, asked_us;
    char *buffer;
    size_t length, sent, capacity;
    char answer[4096];
    size_t answered;
    bool waiting;
} *connections;

static int64_t connection_count, per_request, total, limit, statuses[6];
static bool http, timed;
static const char *authorization;
static int64_t stop_us;

static void read_tokens(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s", path);
    char id[64];
    int channel;
    size_t capacity = 0;
    while (fscanf(file, "%63s %d", id, &channel) == 2) {
        if (strlen(id) != TOKEN_BYTES) die("%s: %s is no token", path, id);
        if (token_count == (int64_t)capacity) tokens = realloc(tokens, (capacity = capacity * 2 + 128) * sizeof *tokens);
        struct token *token = &tokens[token_count++];
        memcpy(token->id, id, TOKEN_BYTES);
        token->channel = channel;
        unsigned char plain[64];
        int length = snprintf((char *)plain, sizeof plain, "token:%s", id);
        EVP_EncodeBlock((unsigned char *)token->basic, plain, length);
    }
    fclose(file);
    if (!token_count) die("%s: no tokens", path);
}

/* One frame: LEN <190>1 TIME host TOKEN web.1 - - #c=… and words up to message_bytes. */
static void lay_out(int message_bytes, bool dialect, bool lf) {
    char date[32];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", gmtime(&now));
    int count = sprintf(frame_template, "%d ", message_bytes);
    int head = sprintf(frame_template + count, "<190>1 %s.000000+00:00 host t.%036d web.1 - %s", date, 0, dialect ? "" : "- ");
    at.frame = count + message_bytes;
    at.micros = count + 7 + 20;
    at.token = count + 7 + 33 + 5;
    at.process = at.token + TOKEN_BYTES + 1 + 4;
    at.mark = count + head;
    at.text = message_bytes - head - (lf ? 1 : 0);
    if (at.text < MARK_BYTES) die("message_bytes: at least %d", message_bytes - at.text + MARK_BYTES);
    char *to = frame_template + at.mark;
    sprintf(to, "#c=%04d k=%05d n=%010d t=%016d ", 0, 0, 0, 0);
    const char *words = "at=info method=GET path=\"/orders\" host=shop.example.com status=200 bytes=5120 service=12ms ";
    for (int i = MARK_BYTES; i < at.text; i++) to[i] = words[(i - MARK_BYTES) % strlen(words)];
    if (lf) frame_template[at.frame - 1] = '\n';
}

static inline struct token *pick(int64_t number, int connection) {
    return &tokens[(number * 7919 + connection * 104729) % token_count];
}

static inline void fill_frame(char *frame, struct connection *c, struct token *token, int64_t sent_us) {
    memcpy(frame + at.token, token->id, TOKEN_BYTES);
    frame[at.process] = '1' + c->messages % 4;
    put_digits(frame + at.micros, 6, c->messages % 1000000);
    put_digits(frame + at.mark + 10, 5, token->channel);
    put_digits(frame + at.mark + 18, 10, c->messages);
    if (timed) put_digits(frame + at.mark + 31, 16, sent_us);
    c->messages++;
    total++;
}

static void lay_out_frames(char *to, struct connection *c, int64_t count) {
    for (int64_t i = 0; i < count; i++, to += at.frame) {
        memcpy(to, frame_template, at.frame);
        put_digits(to + at.mark + 3, 4, c->number);
    }
}

static int fill_frames(char *to, struct connection *c, int64_t count, struct token *token) {
    int64_t sent_us = timed ? now_us() : 0;
    for (int64_t i = 0; i < count; i++)
        fill_frame(to + i * at.frame, c, token ? token : pick(c->messages, c->number), sent_us);
    return count * at.frame;
}

/* The header of a request has a fixed length, so that the frames behind it stay where they are. */
static size_t request_head(char *to, struct connection *c, struct token *token) {
    char basic[128];
    snprintf(basic, sizeof basic, "Basic %s", token->basic);
    return sprintf(to,
                   "POST /logs HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\nAuthorization: %s\r\n"
                   "Content-Type: application/logplex-1\r\nLogplex-Msg-Count: %" PRId64
                   "\r\nX-Request-Id: 5bf1c0de-%04d-4000-8000-%012" PRId64 "\r\nContent-Length: %" PRId64 "\r\n\r\n",
                   authorization ? authorization : basic, per_request, c->number, c->requests, per_request * at.frame);
}

static void next_chunk(struct connection *c, int64_t frames) {
    c->sent = 0;
    if (!http) {
        c->length = fill_frames(c->buffer, c, frames, NULL);
        return;
    }
    struct token *token = pick(c->requests, c->number);
    static char header[4096]; /* of its own: sprintf ends in a NUL, where the first frame stands */
    size_t head = request_head(header, c, token);
    memcpy(c->buffer, header, head);
    if (c->requests == 0) /* the first one lays the frames out, behind the header */
        lay_out_frames(c->buffer + head, c, per_request);
    c->length = head + fill_frames(c->buffer + head, c, per_request, authorization ? NULL : token);
    c->requests++;
    c->asked_us = now_us();
    c->waiting = true;
}

static bool push(struct connection *c) { /* false: the kernel takes no more */
    while (c->sent < c->length) {
        ssize_t wrote = wire_write(&c->wire, c->buffer + c->sent, c->length - c->sent);
        if (wrote < 0 && errno == EAGAIN) return false;
        if (wrote <= 0) die("connection %d was closed by the peer", c->number);
        c->sent += wrote;
    }
    return true;
}

static bool over(void) { return (limit && total >= limit) || now_us() >= stop_us; }

static void pull_answer(struct connection *c) {
    ssize_t got = wire_read(&c->wire, c->answer + c->answered, sizeof c->answer - 1 - c->answered);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("connection %d was closed by the peer", c->number);
    c->answered += got;
    c->answer[c->answered] = 0;
    char *end = strstr(c->answer, "\r\n\r\n");
    if (!end) return;
    int status = get_digits(c->answer + 9, 3);
    char *length = strcasestr(c->answer, "\r\nContent-Length:");
    size_t body = length && length < end ? strtoul(length + 17, NULL, 10) : 0;
    if (c->answered < (size_t)(end + 4 - c->answer) + body) return;
    if (status != 204) fprintf(stderr, "%s\n", c->answer), die("status %d", status);
    statuses[status / 100]++;
    note_latency(now_us() - c->asked_us);
    c->answered = 0;
    c->waiting = false;
}

/* As fast as the peer takes them. */
static void run_full(void) {
    int open = connection_count;
    struct epoll_event events[256];
    for (int64_t i = 0; i < connection_count; i++) watch(connections[i].wire.fd, EPOLLOUT, &connections[i], EPOLL_CTL_ADD);
    int64_t patience_us = stop_us + 20000000;
    while (open > 0) {
        int count = epoll_wait(epoll, events, 256, 1000);
        if (now_us() > patience_us) die("the peer took nothing for 20 s");
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (http && c->waiting && events[i].events & EPOLLIN) pull_answer(c);
            if (!push(c)) {
                watch(c->wire.fd, EPOLLOUT, c, EPOLL_CTL_MOD);
                continue;
            }
            if (!c->waiting && !over()) {
                next_chunk(c, chunk_frames);
                if (!push(c)) {
                    watch(c->wire.fd, EPOLLOUT, c, EPOLL_CTL_MOD);
                    continue;
                }
            }
            if (c->waiting) watch(c->wire.fd, EPOLLIN, c, EPOLL_CTL_MOD);
            else if (over()) watch(c->wire.fd, 0, c, EPOLL_CTL_DEL), open--;
        }
    }
}

/* At a rate: every 500 us what is due, a run of messages per connection in turn. */
static void run_rate(int64_t rate) {
    int64_t started = now_us(), turn = 0;
    while (!over()) {
        int64_t due = (now_us() - started) * rate / 1000000 - total;
        if (limit && due > limit - total) due = limit - total;
        for (int64_t tried = 0; due > 0 && tried < connection_count; tried++) {
            struct connection *c = &connections[turn++ % connection_count];
            if (!push(c)) continue;
            int64_t run = due / connection_count + 1;
            if (run > chunk_frames) run = chunk_frames;
            next_chunk(c, run);
            push(c);
            due -= run;
        }
        struct timespec pause = {.tv_nsec = 500000};
        nanosleep(&pause, NULL);
    }
    for (int64_t i = 0; i < connection_count; i++)
        for (int tries = 0; !push(&connections[i]) && tries < 20000; tries++) usleep(1000);
}

/* Close once the peer has read all: closing over bytes that we did not read (TLS tickets) would reset what is on its way. */
static void finish(struct connection *c) {
    struct timeval patience = {.tv_sec = 10};
    char rest[4096];
    fcntl(c->wire.fd, F_SETFL, fcntl(c->wire.fd, F_GETFL) & ~O_NONBLOCK);
    setsockopt(c->wire.fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (c->wire.ssl) SSL_shutdown(c->wire.ssl);
    shutdown(c->wire.fd, SHUT_WR);
    while (recv(c->wire.fd, rest, sizeof rest, 0) > 0) continue;
    close(c->wire.fd);
}

int main(int count, char **arguments) {
    (void)count;
    given = arguments + 1;
    signal(SIGPIPE, SIG_IGN);
    many_files();
    http = !strcmp(text_option("mode", "tcp"), "http");
    per_request = option("per_request", 500);
    chunk_frames = option("chunk", 20);
    authorization = text_option("authorization", NULL);
    connection_count = option("connections", 8);
    limit = option("messages", 0);
    int64_t rate = option("rate", 0);
    timed = rate > 0;
    read_tokens(text_option("tokens", "tokens.txt"));
    lay_out(option("message_bytes", 200), option("dialect", 0), option("lf", 0));
    if (option("tls", 0)) {
        tls = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    epoll = epoll_create1(0);
    connections = zeroed(connection_count, sizeof *connections);
    for (int64_t i = 0; i < connection_count; i++) {
        struct connection *c = &connections[i];
        c->number = option("base", 0) + i;
        c->wire.fd = dial(option("port", 0));
        if (tls) {
            c->wire.ssl = SSL_new(tls);
            SSL_set_fd(c->wire.ssl, c->wire.fd);
            if (SSL_connect(c->wire.ssl) != 1) die("TLS handshake");
        }
        nonblocking(c->wire.fd);
        int64_t frames = http ? per_request : chunk_frames;
        c->buffer = zeroed(frames * at.frame + 1024, 1);
        if (!http) lay_out_frames(c->buffer, c, frames);
    }
    int64_t started = now_us();
    double spent = cpu_seconds();
    stop_us = started + option("seconds", 5) * 1000000;
    if (rate) run_rate(rate);
    else run_full();
    int64_t ended = now_us(), requests = 0;
    for (int64_t i = 0; i < connection_count; i++) {
        requests += connections[i].requests;
        finish(&connections[i]);
    }
    printf("{\"sent\": %" PRId64 ", \"requests\": %" PRId64 ", \"text_bytes\": %d, ", total, requests, at.text);
    print_latencies();
    printf("\"first_us\": %" PRId64 ", \"last_us\": %" PRId64 ", \"cpu_seconds\": %.6f}\n", started, ended, cpu_seconds() - spent);
    return 0;
}

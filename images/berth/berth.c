/*
 * berth: the only process of a berth pod. It turns a guest's serial console into the pod's stdin/stdout (so that
 * `kubectl logs` and `kubectl attach` work), passes the pod's SIGTERM on to the node's agent, and ends with the guest.
 *
 *   berth [run [DIR]]   relay; DIR (default /run/berth) gets console.sock (QEMU connects) and control.sock (the agent)
 *   berth vnc [SOCKET]  stdin/stdout <-> the guest's VNC socket; run by the CLI with `kubectl exec -i`
 *   berth version
 *
 * Control protocol, one ASCII line each. To the agent: "hello VERSION", "shutdown" (SIGTERM came; said again to every
 * agent that connects later), "pong", "error TEXT". From the agent: "ping", "note TEXT" (one line on the console),
 * "exit CODE" (the guest has ended; so does the berth, with that code). The last note becomes the container's
 * termination message: with the exit code it stays in the pod's status when neither agent nor node is left to ask.
 *
 * There is one such process per VM: it must cost less than 1 MiB, so it is static, has one thread, and allocates nothing.
 * It must not trust the console peer (the guest's QEMU) with anything but bytes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#ifndef TERMINATION_LOG
#define TERMINATION_LOG "/dev/termination-log" /* made by kubelet, readable in the pod's status */
#endif
#ifndef BERTH_VERSION
#define BERTH_VERSION "0.1.0"
#endif

enum {
    OUTPUT_BYTES = 64 * 1024, /* console output waiting for stdout */
    INPUT_BYTES = 4096,       /* keystrokes waiting for the guest */
    LINE_BYTES = 1024,        /* longest control line */
    STALL_MS = 1000,          /* stdout may hold the guest up this long; then output is dropped, never the guest stopped */
    FLUSH_MS = 1000,          /* the last output gets this long to leave when the berth ends */
    EMPTY_MS = 2000,          /* told to stop while there is neither guest nor agent: end after this long */
    ORPHAN_MS = 10000,        /* the guest is gone and no agent tells why: end after this long */
    EXIT_USAGE = 64,
    EXIT_ORPHAN = 70,
    EXIT_SETUP = 71,
};

static volatile sig_atomic_t stop_signal, child_signal;

static char output[OUTPUT_BYTES]; /* a ring: output_len bytes from output_start on */
static size_t output_start, output_len;
static unsigned long long output_dropped; /* bytes lost since the last marker */
static bool output_dead;                  /* nobody will ever read stdout again */
static long long output_full_since;

static char input[INPUT_BYTES];
static size_t input_len;
static bool input_closed;

static char last_note[LINE_BYTES];

static char line[LINE_BYTES];
static size_t line_len;

static int console_listener = -1, control_listener = -1, console = -1, control = -1;
static bool had_guest, stopping;
static long long stopping_since, alone_since;

static struct termios saved_terminal;
static bool terminal_is_raw;

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void die(const char *what, const char *which)
{
    fprintf(stderr, "berth: %s %s: %s\r\n", what, which, strerror(errno));
    exit(EXIT_SETUP);
}

static void drop_peer(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ECONNRESET is said once when a peer left without reading all it was sent; what it said itself is read after that. */
static bool would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNRESET;
}

/* ---- console output: peer -> ring -> stdout ---- */

static size_t output_room(void)
{
    return OUTPUT_BYTES - output_len;
}

static void output_put(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        output[(output_start + output_len + i) % OUTPUT_BYTES] = bytes[i];
    output_len += count;
}

__attribute__((format(printf, 1, 2))) static bool output_say(const char *format, ...)
{
    char text[LINE_BYTES + 64];
    va_list args;
    va_start(args, format);
    int count = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (count < 0 || (size_t)count >= sizeof text || (size_t)count > output_room())
        return false;
    output_put(text, (size_t)count);
    return true;
}

static void output_mark_loss(void)
{
    if (output_dropped && output_room() > 256 &&
        output_say("\r\n[berth: %llu bytes of console output dropped: nobody read them]\r\n", output_dropped))
        output_dropped = 0;
}

/* The guest is held up while the ring is full, but only for STALL_MS: after that its output is read and thrown away. */
static bool output_stalled(void)
{
    return output_full_since && now_ms() - output_full_since >= STALL_MS;
}

static void output_take(const char *bytes, size_t count)
{
    size_t kept = count < output_room() ? count : output_room();
    if (output_dead)
        return;
    if (output_dropped)
        kept = 0; /* nothing may follow a gap before its marker does */
    output_put(bytes, kept);
    output_dropped += count - kept;
    if (!output_room() && !output_full_since)
        output_full_since = now_ms();
}

static void output_write(void)
{
    size_t run = output_len < OUTPUT_BYTES - output_start ? output_len : OUTPUT_BYTES - output_start;
    ssize_t written = write(STDOUT_FILENO, output + output_start, run);
    if (written > 0) {
        output_start = (output_start + (size_t)written) % OUTPUT_BYTES;
        output_len -= (size_t)written;
        output_full_since = 0;
        output_mark_loss();
    } else if (written < 0 && !would_block()) {
        output_dead = true;
        output_len = 0;
        output_full_since = 0;
    }
}

static void console_read(void)
{
    char bytes[4096];
    bool discard = output_dead || output_dropped || output_stalled();
    size_t want = discard || output_room() > sizeof bytes ? sizeof bytes : output_room();
    ssize_t count = read(console, bytes, want);
    if (count > 0)
        output_take(bytes, (size_t)count);
    else if (count == 0 || !would_block())
        drop_peer(&console);
}

/* ---- keystrokes: stdin -> input -> peer ---- */

static void input_read(void)
{
    ssize_t count = read(STDIN_FILENO, input + input_len, INPUT_BYTES - input_len);
    if (count > 0)
        input_len += (size_t)count;
    else if (count == 0 || !would_block())
        input_closed = true;
    if (console < 0)
        input_len = 0; /* typed at no guest */
}

static void input_write(void)
{
    ssize_t sent = send(console, input, input_len, MSG_NOSIGNAL);
    if (sent > 0) {
        input_len -= (size_t)sent;
        memmove(input, input + sent, input_len);
    } else if (sent < 0 && !would_block()) {
        input_len = 0; /* hung up; what it said last may still be unread, so reading decides when it is gone */
    }
}

/* ---- the agent ---- */

/* An agent that does not read its few short lines is hung up on: it will connect again. One that has gone may have said
 * something before it went, so reading decides when it is gone. */
static void control_send(const char *text)
{
    size_t length = strlen(text);
    if (control >= 0 && send(control, text, length, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)length && errno != EPIPE)
        drop_peer(&control);
}

/* Where it cannot be written nothing is lost but the words: the exit code tells the most important part. */
static void leave_message(void)
{
    int fd = open(TERMINATION_LOG, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t written = write(fd, last_note, strlen(last_note));
        (void)written;
        close(fd);
    }
}

static void finish(int code)
{
    long long end = now_ms() + FLUSH_MS;
    if (*last_note)
        leave_message();
    output_mark_loss();
    while (output_len && !output_dead && now_ms() < end) {
        struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
        if (poll(&out, 1, 100) > 0)
            output_write();
    }
    exit(code);
}

static void note(char *text)
{
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?'; /* the text may quote the guest: it must not steer the reader's terminal */
    snprintf(last_note, sizeof last_note, "%s", text);
    output_mark_loss();
    if (!output_say("\r\nberth: %s\r\n", text))
        output_dropped += strlen(text);
}

static bool exit_code(const char *text, int *code)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    *code = (int)value;
    return *text >= '0' && *text <= '9' && !*end && !errno && value <= 255;
}

static void control_line(char *text)
{
    int code;
    if (!strcmp(text, "ping"))
        control_send("pong\n");
    else if (!strncmp(text, "note ", 5))
        note(text + 5);
    else if (!strncmp(text, "exit ", 5) && exit_code(text + 5, &code))
        finish(code);
    else
        control_send("error unknown command; known: ping, note TEXT, exit 0-255\n");
}

static void control_read(void)
{
    ssize_t count = read(control, line + line_len, LINE_BYTES - line_len);
    if (count <= 0) {
        if (count == 0 || !would_block())
            drop_peer(&control);
        return;
    }
    line_len += (size_t)count;
    for (char *end; control >= 0 && (end = memchr(line, '\n', line_len));) {
        size_t used = (size_t)(end - line) + 1;
        *end = 0;
        control_line(line);
        line_len -= used;
        memmove(line, line + used, line_len);
    }
    if (line_len == LINE_BYTES) {
        control_send("error line too long\n");
        drop_peer(&control);
    }
}

/* ---- connections ---- */

/* The name appears when the socket already listens: whoever sees it can connect. */
static int listen_at(const char *dir, const char *name, mode_t mode)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char place[sizeof address.sun_path];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        die("cannot make a socket for", name);
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s/.%s", dir, name) >= (int)sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        die("cannot listen in", dir);
    }
    snprintf(place, sizeof place, "%s/%s", dir, name);
    unlink(address.sun_path); /* of an earlier run of this container */
    umask(0777 & ~mode);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4) || rename(address.sun_path, place))
        die("cannot listen at", place);
    return fd;
}

/* Whoever connects last wins: after a restart of the agent or of a connection the older peer is a dead one. */
static bool accept_newest(int listener, int *peer)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return false;
    drop_peer(peer);
    *peer = fd;
    return true;
}

static void accept_control(void)
{
    struct ucred who;
    socklen_t size = sizeof who;
    int fd = -1;
    if (!accept_newest(control_listener, &fd))
        return;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) || who.uid != 0) {
        close(fd); /* only root of the node may speak for the guest; the agent in charge stays connected */
        return;
    }
    drop_peer(&control);
    control = fd;
    line_len = 0;
    control_send("hello " BERTH_VERSION "\n");
    if (stopping)
        control_send("shutdown\n");
}

static void accept_console(void)
{
    if (accept_newest(console_listener, &console)) {
        had_guest = true;
        input_len = 0;
    }
}

/* ---- life and death ---- */

static void on_signal(int number)
{
    if (number == SIGCHLD)
        child_signal = 1;
    else
        stop_signal = 1;
}

static void take_signals(void)
{
    if (child_signal) {
        child_signal = 0;
        while (waitpid(-1, NULL, WNOHANG) > 0) /* PID 1 inherits orphans, should there be any */
            ;
    }
    if (stop_signal) {
        stop_signal = 0;
        if (!stopping)
            stopping_since = now_ms();
        stopping = true;
        control_send("shutdown\n");
    }
}

static long long earlier(long long a, long long b)
{
    return a < b ? a : b;
}

/* Ends a berth that nobody needs any more; returns how long the next poll may wait (-1: for ever). */
static int check_deadlines(void)
{
    const long long never = 1LL << 62;
    long long now = now_ms(), next = never;
    if (console >= 0 || control >= 0)
        alone_since = 0;
    else if (!alone_since)
        alone_since = now;
    if (alone_since && had_guest)
        next = alone_since + ORPHAN_MS;
    else if (alone_since && stopping)
        next = (alone_since > stopping_since ? alone_since : stopping_since) + EMPTY_MS;
    if (next <= now) {
        static char orphaned[] = "the guest is gone and no agent says why", unused[] = "stopped before a guest came";
        note(had_guest ? orphaned : unused);
        finish(had_guest ? EXIT_ORPHAN : 0);
    }
    if (output_full_since && !output_stalled())
        next = earlier(next, output_full_since + STALL_MS);
    return next == never ? -1 : (int)(next - now);
}

static void restore_terminal(void)
{
    if (terminal_is_raw)
        tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
    for (int fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

/* Every byte belongs to the guest: no echo, no line editing, no signals from keys, no CR added. */
static void prepare_terminal(void)
{
    struct termios raw;
    if (!tcgetattr(STDIN_FILENO, &saved_terminal)) {
        raw = saved_terminal;
        cfmakeraw(&raw);
        raw.c_cc[VMIN] = 1;
        raw.c_cc[VTIME] = 0;
        terminal_is_raw = !tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    for (int fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    atexit(restore_terminal);
}

/* A closed 0, 1 or 2 would be handed to the first socket; /dev/null takes its place. */
static void fill_standard_fds(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            _exit(EXIT_SETUP);
}

static void prepare_signals(sigset_t *while_waiting)
{
    struct sigaction taken = {.sa_handler = on_signal}, ignored = {.sa_handler = SIG_IGN};
    sigset_t blocked;
    sigemptyset(&blocked);
    for (const int *s = (const int[]){SIGTERM, SIGINT, SIGCHLD, 0}; *s; s++) {
        sigaction(*s, &taken, NULL);
        sigaddset(&blocked, *s);
    }
    /* SIGHUP: the container runtime's side of the terminal went away; the guest is to live on. */
    for (const int *s = (const int[]){SIGHUP, SIGPIPE, SIGTTIN, SIGTTOU, 0}; *s; s++)
        sigaction(*s, &ignored, NULL);
    sigprocmask(SIG_BLOCK, &blocked, while_waiting);
    for (const int *s = (const int[]){SIGTERM, SIGINT, SIGCHLD, 0}; *s; s++)
        sigdelset(while_waiting, *s);
}

static void wait_and_serve(const sigset_t *while_waiting)
{
    enum { IN, OUT, CONSOLE_NEW, CONTROL_NEW, CONSOLE, CONTROL, COUNT };
    int timeout = check_deadlines();
    bool take_output = output_dead || output_room() || output_stalled();
    short console_events = (short)((take_output ? POLLIN : 0) | (input_len ? POLLOUT : 0));
    struct pollfd fds[COUNT] = {
        [IN] = {.fd = input_closed || input_len == INPUT_BYTES ? -1 : STDIN_FILENO, .events = POLLIN},
        [OUT] = {.fd = output_len && !output_dead ? STDOUT_FILENO : -1, .events = POLLOUT},
        [CONSOLE_NEW] = {.fd = console_listener, .events = POLLIN},
        [CONTROL_NEW] = {.fd = control_listener, .events = POLLIN},
        [CONSOLE] = {.fd = console_events ? console : -1, .events = console_events},
        [CONTROL] = {.fd = control, .events = POLLIN},
    };
    struct timespec limit = {timeout / 1000, timeout % 1000 * 1000000L};
    if (ppoll(fds, COUNT, timeout < 0 ? NULL : &limit, while_waiting) <= 0)
        return;
    if (fds[OUT].revents)
        output_write();
    if (fds[CONSOLE].revents & POLLOUT)
        input_write();
    if (take_output && fds[CONSOLE].revents & (POLLIN | POLLHUP | POLLERR))
        console_read();
    if (fds[IN].revents)
        input_read();
    if (fds[CONTROL].revents)
        control_read();
    if (fds[CONSOLE_NEW].revents)
        accept_console();
    if (fds[CONTROL_NEW].revents)
        accept_control();
}

_Noreturn static void run(const char *dir)
{
    sigset_t while_waiting;
    prepare_signals(&while_waiting);
    console_listener = listen_at(dir, "console.sock", 0666);
    control_listener = listen_at(dir, "control.sock", 0600);
    prepare_terminal();
    for (;;) {
        take_signals();
        wait_and_serve(&while_waiting);
    }
}

/* ---- berth vnc ---- */

static bool write_all(int fd, const char *bytes, size_t count)
{
    while (count) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        count -= (size_t)written;
    }
    return true;
}

/* Copies one way until the end of the stream; blocking writes are the back-pressure. */
static int copy_stream(int from, int to)
{
    static char bytes[32 * 1024];
    for (;;) {
        ssize_t count = read(from, bytes, sizeof bytes);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0;
        if (!write_all(to, bytes, (size_t)count))
            return 1;
    }
}

/* Two processes, one a direction: neither direction can ever hold the other up. */
static int vnc(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "berth: cannot use %s as a socket\n", path);
        return EXIT_SETUP;
    }
    strcpy(address.sun_path, path);
    signal(SIGPIPE, SIG_IGN);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        fprintf(stderr, "berth: the guest has no screen at %s: %s\n", path, strerror(errno));
        return EXIT_SETUP;
    }
    pid_t sender = fork();
    if (sender < 0)
        die("cannot fork for", path);
    if (!sender) {
        int code = copy_stream(STDIN_FILENO, fd);
        shutdown(fd, SHUT_WR);
        _exit(code);
    }
    int code = copy_stream(fd, STDOUT_FILENO);
    kill(sender, SIGKILL);
    waitpid(sender, NULL, 0);
    return code;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "run";
    fill_standard_fds();
    if (argc <= 3 && !strcmp(command, "run"))
        run(argc > 2 ? argv[2] : "/run/berth");
    if (argc <= 3 && !strcmp(command, "vnc"))
        return vnc(argc > 2 ? argv[2] : "/run/berth/vnc/vnc.sock");
    if (argc == 2 && !strcmp(command, "version"))
        return puts(BERTH_VERSION) < 0;
    fprintf(stderr, "usage: berth [run [DIR] | vnc [SOCKET] | version]\n");
    return EXIT_USAGE;
}

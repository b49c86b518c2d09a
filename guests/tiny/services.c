/*
 * What the tiny guest serves, all in one process:
 *
 *   port 80     HTTP, a line each: hostname, client (its address), uptime, boot_id, cpus, memory_kib, "disk NAME BYTES";
 *               the status is 503 for /fail and, after berth.unhealthy=S, for everything
 *   port 7000   a counter: every client gets the next line "N\n" each 50 ms, beginning at 1, to prove that a stream goes on
 *   port 7001   echo, by TCP and UDP
 *   port 7002   a shell: runs what it is sent up to the first newline, answers with the output and "exit N"
 *
 * all of it over IPv4 and IPv6.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HTTP_PORT = 80, COUNTER_PORT = 7000, ECHO_PORT = 7001, SHELL_PORT = 7002, TICK_NANOSECONDS = 50000000, MAX_FDS = 256 };
enum kind { TICKER, HTTP_LISTENER, COUNTER_LISTENER, ECHO_LISTENER, SHELL_LISTENER, DATAGRAMS, HTTP_CLIENT, COUNTER_CLIENT, ECHO_CLIENT };

static struct pollfd fds[MAX_FDS];
static struct { enum kind kind; unsigned long count; } state[MAX_FDS];
static nfds_t used;
static double unhealthy_from = -1;

static void add(int fd, enum kind kind)
{
    if (fd < 0 || used == MAX_FDS) {
        if (fd >= 0)
            close(fd);
        return;
    }
    fds[used] = (struct pollfd){.fd = fd, .events = POLLIN};
    state[used].kind = kind;
    state[used].count = 0;
    used++;
}

static void drop(nfds_t i)
{
    close(fds[i].fd);
    used--;
    fds[i] = fds[used];
    state[i] = state[used];
}

/* Without IPV6_V6ONLY an IPv6 socket takes IPv4 too. */
static int listener(in_port_t port, int type)
{
    int yes = 1, fd = socket(AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || (type == SOCK_STREAM && listen(fd, 64)))
        say("cannot listen on port %d", port);
    return fd;
}

static void name_client(int fd, char *text, socklen_t size)
{
    struct sockaddr_in6 address;
    socklen_t length = sizeof address;
    text[0] = '\0';
    if (getpeername(fd, (struct sockaddr *)&address, &length))
        return;
    if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr))
        inet_ntop(AF_INET, &address.sin6_addr.s6_addr[12], text, size);
    else
        inet_ntop(AF_INET6, &address.sin6_addr, text, size);
}

static void describe(FILE *out, int client)
{
    char line[128];
    name_client(client, line, sizeof line);
    fprintf(out, "client %s\n", line);
    first_line("/proc/sys/kernel/hostname", line, sizeof line);
    fprintf(out, "hostname %s\nuptime %.2f\n", line, uptime());
    first_line("/proc/sys/kernel/random/boot_id", line, sizeof line);
    fprintf(out, "boot_id %s\ncpus %ld\n", line, sysconf(_SC_NPROCESSORS_ONLN));
    first_line("/proc/meminfo", line, sizeof line);
    fprintf(out, "memory_kib %lu\n", strtoul(line + strcspn(line, "0123456789"), NULL, 10));
    describe_disks(out, "");
}

static void answer_http(int fd)
{
    char request[2048], body[4096] = "", head[256];
    ssize_t got = recv(fd, request, sizeof request - 1, 0);
    request[got < 0 ? 0 : got] = '\0';
    bool healthy = !(unhealthy_from >= 0 && uptime() >= unhealthy_from) && !strstr(request, " /fail");
    FILE *out = fmemopen(body, sizeof body, "w");
    describe(out, fd);
    long size = ftell(out);
    fclose(out);
    int length = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %ld\r\nConnection: close\r\n\r\n",
                          healthy ? "200 OK" : "503 Service Unavailable", size);
    send(fd, head, (size_t)length, MSG_MORE);
    send(fd, body, (size_t)size, 0);
    shutdown(fd, SHUT_WR);
}

/* False when the client has gone. */
static bool echo(int fd)
{
    char data[4096];
    ssize_t got = recv(fd, data, sizeof data, 0);
    return got > 0 && send(fd, data, (size_t)got, 0) == got;
}

static void echo_datagram(int fd)
{
    char data[4096];
    struct sockaddr_in6 from;
    socklen_t length = sizeof from;
    ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
    if (got >= 0)
        sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, length);
}

/* In a process of its own, which ends when the command does. */
static void run_shell(int fd)
{
    char command[8192];
    size_t used = 0;
    if (fork() != 0)
        return;
    while (used < sizeof command - 1 && recv(fd, command + used, 1, 0) == 1 && command[used] != '\n')
        used++;
    command[used] = '\0';
    pid_t pid = fork();
    if (pid == 0) {
        dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), 0); /* the console is somebody else's */
        for (int i = 1; i < 3; i++)
            dup2(fd, i);
        signal(SIGPIPE, SIG_DFL);
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    dprintf(fd, "exit %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    _exit(0);
}

static bool still_there(int fd)
{
    char data[256];
    return recv(fd, data, sizeof data, MSG_DONTWAIT) != 0;
}

static void tick(void)
{
    uint64_t times;
    if (read(fds[0].fd, &times, sizeof times) < 0)
        return;
    for (nfds_t i = used; i-- > 1;) {
        if (state[i].kind != COUNTER_CLIENT)
            continue;
        char line[32];
        int size = snprintf(line, sizeof line, "%lu\n", state[i].count + 1);
        /* A client whose path stands still for a while misses no number: the line is said again until it fits. */
        if (send(fds[i].fd, line, (size_t)size, MSG_DONTWAIT) == size)
            state[i].count++;
    }
}

static void handle(nfds_t i)
{
    int fd = fds[i].fd;
    switch (state[i].kind) {
    case TICKER: tick(); break;
    case HTTP_LISTENER: add(accept4(fd, NULL, NULL, SOCK_CLOEXEC), HTTP_CLIENT); break;
    case COUNTER_LISTENER: add(accept4(fd, NULL, NULL, SOCK_CLOEXEC), COUNTER_CLIENT); break;
    case ECHO_LISTENER: add(accept4(fd, NULL, NULL, SOCK_CLOEXEC), ECHO_CLIENT); break;
    case SHELL_LISTENER: {
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        run_shell(client);
        close(client);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
        break;
    }
    case DATAGRAMS: echo_datagram(fd); break;
    case HTTP_CLIENT:
        answer_http(fd);
        drop(i);
        break;
    case COUNTER_CLIENT:
        if (!still_there(fd))
            drop(i);
        break;
    case ECHO_CLIENT:
        if (!echo(fd))
            drop(i);
        break;
    }
}

void serve(void)
{
    struct itimerspec every = {.it_interval.tv_nsec = TICK_NANOSECONDS, .it_value.tv_nsec = TICK_NANOSECONDS};
    const char *seconds = argument("berth.unhealthy");
    unhealthy_from = seconds ? strtod(seconds, NULL) : -1;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(timer, 0, &every, NULL);
    add(timer, TICKER);
    add(listener(HTTP_PORT, SOCK_STREAM), HTTP_LISTENER);
    add(listener(COUNTER_PORT, SOCK_STREAM), COUNTER_LISTENER);
    add(listener(ECHO_PORT, SOCK_STREAM), ECHO_LISTENER);
    add(listener(SHELL_PORT, SOCK_STREAM), SHELL_LISTENER);
    add(listener(ECHO_PORT, SOCK_DGRAM), DATAGRAMS);
    for (;;) {
        if (poll(fds, used, -1) < 0)
            continue;
        for (nfds_t i = used; i-- > 0;)
            if (fds[i].revents)
                handle(i);
    }
}

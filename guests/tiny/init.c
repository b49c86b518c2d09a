/*
 * The tiny guest's init: the first process of a Linux made of a Debian kernel, a few modules, busybox and this.
 * It is up in two or three seconds without hardware help, and does what tests want to see of a guest:
 *
 *   "berth-guest: up SECONDS"     the first line any process prints
 *   "berth-guest: ip ADDRESS"     after DHCP (which also sets route, DNS, MTU and host name); "ip ethN ADDRESS" on further NICs
 *   "berth-guest: ip6 ADDRESS"    after DHCPv6, if anybody answers it
 *   a shell on ttyS0 as soon as a line is typed there, the services in services.c, a clean power-off when the ACPI power button is pressed
 *
 * Kernel arguments: berth.panic=S, berth.poweroff=S, berth.reboot=S and berth.exit=S (init ends: the kernel panics) after S
 * seconds; berth.ignore_button; berth.unhealthy=S (HTTP answers 503 from then on); berth.write=/dev/vdX; berth.nodhcp.
 * The program `frames` sends and hears raw Ethernet frames.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <signal.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RESPAWN_SECONDS = 1 };

void say(const char *format, ...)
{
    char line[512];
    int used = snprintf(line, sizeof line, "berth-guest: ");
    va_list args;
    va_start(args, format);
    used += vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);
    if (used > (int)sizeof line - 2)
        used = sizeof line - 2;
    line[used++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)used) < 0)
        return;
}

void first_line(const char *path, char *line, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, line, size - 1);
    if (fd >= 0)
        close(fd);
    line[got < 0 ? 0 : got] = '\0';
    line[strcspn(line, "\n")] = '\0';
}

double uptime(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

const char *argument(const char *name)
{
    static char line[4096];
    size_t length = strlen(name);
    first_line("/proc/cmdline", line, sizeof line);
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) {
        if (strncmp(word, name, length) == 0 && word[length] == '=')
            return word + length + 1;
        if (strcmp(word, name) == 0)
            return word + length;
    }
    return NULL;
}

static void mount_all(void)
{
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mkdir("/dev/pts", 0755);
    mount("pts", "/dev/pts", "devpts", 0, NULL);
    mount("tmp", "/tmp", "tmpfs", 0, NULL);
}

static void use_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int i = 0; fd >= 0 && i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
}

/* The kernel's modules, in an order that meets their dependencies; one that this machine has no use for may fail. */
static void load_modules(void)
{
    FILE *list = fopen("/modules/order", "re");
    char name[64], path[128];
    while (list && fscanf(list, "%63s", name) == 1) {
        snprintf(path, sizeof path, "/modules/%s.ko", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST && errno != ENODEV))
            say("module %s: %s", name, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    if (list)
        fclose(list);
}

static pid_t start_shell(void)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    setsid();
    int fd = open("/dev/ttyS0", O_RDWR);
    if (fd < 0)
        _exit(1);
    struct winsize size = {.ws_row = 24, .ws_col = 80}; /* without a size the shell asks the terminal, which garbles logs */
    ioctl(fd, TIOCSCTTY, 0);
    ioctl(fd, TIOCSWINSZ, &size);
    /* Without anybody typing no prompt gets in among the lines that tests look for. */
    struct pollfd typed = {.fd = fd, .events = POLLIN};
    poll(&typed, 1, -1);
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    setenv("PS1", "berth-guest# ", 1);
    setenv("TERM", "linux", 0);
    execl("/bin/sh", "-sh", NULL);
    _exit(1);
}

static void start(void (*part)(void))
{
    if (fork() == 0)
        part();
}

/* A process that waits for the moment named by a kernel argument and then does what `act` says. */
static void at_time(const char *name, void (*act)(void))
{
    const char *seconds = argument(name);
    if (!seconds || !*seconds)
        return;
    double wait = strtod(seconds, NULL) - uptime();
    if (fork() != 0)
        return;
    if (wait > 0)
        usleep((useconds_t)(wait * 1e6));
    say("%s", name);
    act();
    _exit(0);
}

static void trigger_panic(void)
{
    int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "c", 1) < 0)
        say("cannot panic: %s", strerror(errno));
}

static void power_off(void)
{
    sync();
    reboot(LINUX_REBOOT_CMD_POWER_OFF);
}

static void restart(void)
{
    sync();
    reboot(LINUX_REBOOT_CMD_RESTART);
}

static void end_init(void)
{
    kill(1, SIGTERM);
}

static void leave(int signal_number)
{
    _exit(signal_number);
}

int main(void)
{
    mount_all();
    use_console();
    sethostname("berth-guest", strlen("berth-guest"));
    say("up %.2f", uptime());
    signal(SIGTERM, leave);
    load_modules();
    describe_disks(stdout, "berth-guest: ");
    fflush(stdout);
    const char *disk = argument("berth.write");
    if (disk)
        mark_disk(strdup(disk));
    start(serve);
    start_network();
    if (!argument("berth.ignore_button"))
        start(watch_power_button);
    at_time("berth.panic", trigger_panic);
    at_time("berth.poweroff", power_off);
    at_time("berth.reboot", restart);
    at_time("berth.exit", end_init);
    say("ready %.2f", uptime());
    for (pid_t shell = start_shell();;) {
        pid_t ended = wait(NULL);
        if (ended == shell || (ended < 0 && errno == ECHILD)) {
            sleep(RESPAWN_SECONDS);
            shell = start_shell();
        }
    }
}

/* What the tiny guest does with its machine: the ACPI power button and the virtio disks. */
#define _GNU_SOURCE
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

enum { MAX_INPUTS = 8, MARKER_OFFSET = 64 * 1024, MARKER_SIZE = 512, SECTOR = 512, WAIT_TRIES = 100, WAIT_MICROSECONDS = 20000 };

static int open_inputs(struct pollfd *fds)
{
    int count = 0;
    char path[32];
    for (int i = 0; i < MAX_INPUTS; i++) {
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    return count;
}

void watch_power_button(void)
{
    struct pollfd fds[MAX_INPUTS];
    int count = open_inputs(fds);
    signal(SIGTERM, SIG_DFL);
    if (count == 0)
        say("no power button");
    while (count > 0 && poll(fds, (nfds_t)count, -1) >= 0) {
        for (int i = 0; i < count; i++) {
            struct input_event event;
            if (!(fds[i].revents & POLLIN) || read(fds[i].fd, &event, sizeof event) != sizeof event)
                continue;
            if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
                say("power button");
                sync();
                reboot(RB_POWER_OFF);
            }
        }
    }
    _exit(0);
}

void mark_disk(const char *device)
{
    static char before[MARKER_SIZE], now[MARKER_SIZE], after[MARKER_SIZE];
    char boot[64];
    int fd = -1;
    for (int i = 0; i < WAIT_TRIES && (fd = open(device, O_RDWR | O_SYNC | O_CLOEXEC)) < 0 && errno == ENOENT; i++)
        usleep(WAIT_MICROSECONDS);
    first_line("/proc/sys/kernel/random/boot_id", boot, sizeof boot);
    snprintf(now, sizeof now, "berth-marker %s", boot);
    if (fd < 0 || pread(fd, before, sizeof before, MARKER_OFFSET) != MARKER_SIZE) {
        say("disk %s: %s", device, strerror(errno));
        return;
    }
    before[MARKER_SIZE - 1] = '\0';
    bool kept = strncmp(before, "berth-marker ", 13) == 0;
    say("disk %s %s%s", device, kept ? "kept " : "was empty", kept ? before + 13 : "");
    bool written = pwrite(fd, now, sizeof now, MARKER_OFFSET) == MARKER_SIZE && fsync(fd) == 0;
    bool same = written && pread(fd, after, sizeof after, MARKER_OFFSET) == MARKER_SIZE && memcmp(now, after, sizeof now) == 0;
    if (same)
        say("disk %s wrote %s", device, boot);
    else
        say("disk %s: write failed: %s", device, strerror(errno));
    close(fd);
}

static unsigned long long disk_size(const char *name)
{
    char path[320], sectors[32];
    snprintf(path, sizeof path, "/sys/block/%s/size", name);
    first_line(path, sectors, sizeof sectors);
    return strtoull(sectors, NULL, 10) * SECTOR;
}

static int by_name(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name);
}

static int is_disk(const struct dirent *entry)
{
    return strncmp(entry->d_name, "vd", 2) == 0 || strncmp(entry->d_name, "sd", 2) == 0;
}

void describe_disks(FILE *out, const char *prefix)
{
    struct dirent **names;
    int count = scandir("/sys/block", &names, is_disk, by_name);
    for (int i = 0; i < count; i++) {
        fprintf(out, "%sdisk %s %llu\n", prefix, names[i]->d_name, disk_size(names[i]->d_name));
        free(names[i]);
    }
    if (count >= 0)
        free(names);
}

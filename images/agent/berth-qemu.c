/*
 * berth-qemu: libvirt's <emulator>. It puts itself into the berth pod's cgroup, in every hierarchy, and becomes QEMU;
 * so the guest counts against its pod and not against the agent, and outlives the agent.
 *
 * Installed setuid root. libvirt starts it as the VM's own uid without capabilities. Of what setuid gives it keeps
 * nothing but the effective uid 0: enough to write root-owned cgroup.procs files, and given up before QEMU runs.
 * Any process of the container may start it, so it trusts nothing but files that only root can have written:
 *
 *   -uuid X (once, in argv)           the VM
 *   /run/berth/vms/X/cgroup           line 1: the VM's uid, which must be the real uid of the caller
 *                                     further lines: "oom_score_adj N", or /sys/fs/cgroup/.../cgroup.procs to enter
 *
 * Without -uuid (libvirt asks QEMU for its capabilities) it enters nothing. Whatever looks odd ends it with exit code 126
 * and one line on stderr, which libvirt keeps in the domain's log.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef QEMU_BINARY
#define QEMU_BINARY "/usr/bin/qemu-system-x86_64"
#endif
#ifndef VMS_DIR
#define VMS_DIR "/run/berth/vms"
#endif
#define CGROUP_ROOT "/sys/fs/cgroup/"
#define CGROUP1_MAGIC 0x27e0eb /* the kernel's headers, which are not there beside every C library, name these */
#define CGROUP2_MAGIC 0x63677270
#define CAPABILITY_VERSION_3 0x20080522

enum { TICKET_BYTES = 16 * 1024, UUID_CHARS = 36, EXIT_REFUSED = 126 };

__attribute__((noreturn, format(printf, 1, 2))) static void refuse(const char *format, ...)
{
    va_list args;
    fputs("berth-qemu: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(EXIT_REFUSED);
}

/* Only the effective uid is needed; libvirt leaves the bounding set full, and setuid root then grants every capability. */
static void drop_capabilities(void)
{
    for (int capability = 0; capability < 64; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0); /* fails where there is nothing to drop, or no right to */
    struct { unsigned version; int pid; } header = {CAPABILITY_VERSION_3, 0};
    struct { unsigned effective, permitted, inheritable; } none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (syscall(SYS_capset, &header, none))
        refuse("cannot drop capabilities: %s", strerror(errno));
}

static bool is_uuid(const char *text)
{
    for (int i = 0; i < UUID_CHARS; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (dash ? text[i] != '-' : !hex)
            return false;
    }
    return !text[UUID_CHARS];
}

static const char *find_uuid(char **argv)
{
    const char *found = NULL;
    for (char **arg = argv; *arg; arg++) {
        if (strcmp(*arg, "-uuid") && strcmp(*arg, "--uuid"))
            continue;
        if (found)
            refuse("-uuid is given twice: which VM is meant cannot be told");
        if (!arg[1] || !is_uuid(arg[1]))
            refuse("-uuid must be followed by a lower-case UUID, not \"%.64s\"", arg[1] ? arg[1] : "");
        found = *++arg;
    }
    return found;
}

static void must_be_roots(const char *path, int fd, mode_t type)
{
    struct stat s;
    if (fstat(fd, &s))
        refuse("%s: %s", path, strerror(errno));
    if ((s.st_mode & S_IFMT) != type || s.st_uid != 0 || s.st_mode & (S_IWGRP | S_IWOTH))
        refuse("%s: must belong to root, be writable by root alone, and be a plain %s (mode %o, uid %u)", path,
               type == S_IFDIR ? "directory" : "file", s.st_mode, s.st_uid);
}

/* The agent's word on where this VM belongs. */
static void read_ticket(const char *uuid, char *text)
{
    char dir[sizeof VMS_DIR + UUID_CHARS + 1], path[sizeof dir + sizeof "/cgroup"];
    snprintf(dir, sizeof dir, VMS_DIR "/%s", uuid);
    snprintf(path, sizeof path, "%s/cgroup", dir);
    int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir_fd < 0)
        refuse("%s: %s; the agent makes it before it starts a VM", dir, strerror(errno));
    must_be_roots(dir, dir_fd, S_IFDIR);
    int fd = openat(dir_fd, "cgroup", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        refuse("%s: %s; the agent writes it before it starts a VM", path, strerror(errno));
    must_be_roots(path, fd, S_IFREG);
    ssize_t count = read(fd, text, TICKET_BYTES);
    if (count <= 0 || count == TICKET_BYTES || text[count - 1] != '\n' || memchr(text, 0, (size_t)count))
        refuse("%s: must be whole lines of text, less than %d bytes", path, TICKET_BYTES);
    text[count] = 0;
    close(fd);
    close(dir_fd);
}

static long number(const char *what, const char *text, long low, long high)
{
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < low || value > high)
        refuse("%s must be a number from %ld to %ld, not \"%.64s\"", what, low, high, text);
    return value;
}

/* "0" is the writer itself: right in any pid namespace. */
static void enter_cgroup(const char *path)
{
    const char *tail = strrchr(path, '/');
    struct statfs fs;
    if (strncmp(path, CGROUP_ROOT, sizeof CGROUP_ROOT - 1) || strstr(path, "/../") || !tail || strcmp(tail, "/cgroup.procs"))
        refuse("\"%.512s\" is not a " CGROUP_ROOT "…/cgroup.procs file", path);
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && (fstatfs(fd, &fs) || (fs.f_type != CGROUP1_MAGIC && fs.f_type != CGROUP2_MAGIC)))
        refuse("%s: not in a cgroup file system", path);
    if (fd < 0 || write(fd, "0", 1) != 1)
        refuse("%s: %s; is the berth pod still there?", path, strerror(errno));
    close(fd);
}

/* What kubelet chose for the pod, so that a node short of memory treats the guest as it would treat any pod of its class.
 * Lowering it takes a capability that is gone: libvirtd's own value then stays, which is no reason not to run. */
static void adjust_oom_score(const char *value)
{
    number("oom_score_adj", value, -1000, 1000);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        fprintf(stderr, "berth-qemu: note: oom_score_adj stays as it is: %s\n", strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void obey_ticket(const char *uuid)
{
    static char text[TICKET_BYTES + 1];
    char *rest = text, *line;
    int entered = 0;
    read_ticket(uuid, text);
    if ((uid_t)number("the VM's uid", strsep(&rest, "\n"), 1, 0xfffffffeL) != getuid())
        refuse("started by uid %u, which is not the uid of VM %s", getuid(), uuid);
    while ((line = strsep(&rest, "\n")) && *line) {
        if (!strncmp(line, "oom_score_adj ", 14)) {
            adjust_oom_score(line + 14);
        } else {
            enter_cgroup(line);
            entered++;
        }
    }
    if (!entered)
        refuse(VMS_DIR "/%s/cgroup names no cgroup to enter", uuid);
}

static void drop_root(void)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        refuse("cannot give up root: %s", strerror(errno));
    if (uid && (!setuid(0) || !seteuid(0)))
        refuse("root was not given up");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        refuse("cannot forbid new privileges: %s", strerror(errno));
}

int main(int argc, char **argv)
{
    const char *uuid = argc > 0 ? find_uuid(argv + 1) : NULL;
    drop_capabilities();
    if (uuid)
        obey_ticket(uuid);
    drop_root();
    if (argc > 0)
        argv[0] = QEMU_BINARY;
    execv(QEMU_BINARY, argv);
    refuse(QEMU_BINARY ": %s", strerror(errno));
}

/*
 * The tiny guest's links: each ethN, there at the start or plugged in later, is brought up and asks for its addresses by
 * DHCP and, once its link-local address is its own, by DHCPv6. The kernel itself follows router advertisements.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_NICS = 32, TENTATIVE = 0x40, LINK_SCOPE = 0x20, WAIT_TRIES = 200, WAIT_MICROSECONDS = 50000 };

/* False when there is no such link, or it was up already. */
static bool bring_up(const char *name)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
    bool down = ioctl(fd, SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP);
    request.ifr_flags |= IFF_UP;
    bool done = down && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    close(fd);
    return done;
}

static void be_silent(void)
{
    int silence = open("/dev/null", O_RDWR);
    dup2(silence, STDOUT_FILENO);
    dup2(silence, STDERR_FILENO);
}

/* The kernel first asks whether anybody else on the link has the address: until then nothing may be sent from it. */
static bool has_link_local(const char *nic)
{
    FILE *list = fopen("/proc/net/if_inet6", "re");
    char name[64];
    unsigned scope, flags;
    bool found = false;
    while (list && !found && fscanf(list, "%*s %*x %*x %x %x %63s", &scope, &flags, name) == 3)
        found = scope == LINK_SCOPE && !(flags & TENTATIVE) && strcmp(name, nic) == 0;
    if (list)
        fclose(list);
    return found;
}

static void ask_for_addresses(const char *nic)
{
    if (fork() == 0) {
        be_silent();
        execl("/bin/udhcpc", "udhcpc", "-f", "-q", "-i", nic, "-t", "30", "-T", "1", "-A", "1", "-O", "mtu", "-O", "search", "-s", "/etc/dhcp", NULL);
        _exit(1);
    }
    if (fork() == 0) {
        be_silent();
        for (int i = 0; i < WAIT_TRIES && !has_link_local(nic); i++)
            usleep(WAIT_MICROSECONDS);
        execl("/bin/udhcpc6", "udhcpc6", "-f", "-q", "-i", nic, "-t", "10", "-T", "1", "-A", "60", "-O", "dns", "-O", "search", "-s", "/etc/dhcp6", NULL);
        _exit(1);
    }
}

static void start_nic(const char *name)
{
    if (strncmp(name, "eth", 3) == 0 && bring_up(name))
        ask_for_addresses(name);
}

static const char *link_name(const struct nlmsghdr *message)
{
    const struct ifinfomsg *link = NLMSG_DATA(message);
    int left = (int)IFLA_PAYLOAD(message);
    for (struct rtattr *part = IFLA_RTA(link); RTA_OK(part, left); part = RTA_NEXT(part, left))
        if (part->rta_type == IFLA_IFNAME)
            return RTA_DATA(part);
    return "";
}

/* A process of its own: links that are plugged in while the guest runs. */
static void watch_links(int fd)
{
    static char buffer[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
    for (;;) {
        int got = (int)recv(fd, buffer, sizeof buffer, 0);
        for (struct nlmsghdr *message = (void *)buffer; NLMSG_OK(message, (unsigned)got) && got > 0; message = NLMSG_NEXT(message, got))
            if (message->nlmsg_type == RTM_NEWLINK)
                start_nic(link_name(message));
    }
}

void start_network(void)
{
    struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
    char nic[IFNAMSIZ];
    bring_up("lo");
    if (argument("berth.nodhcp"))
        return;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    bool watched = bind(fd, (struct sockaddr *)&links, sizeof links) == 0;
    for (int i = 0; i < MAX_NICS; i++) {
        snprintf(nic, sizeof nic, "eth%d", i);
        start_nic(nic);
    }
    if (watched && fork() == 0)
        watch_links(fd);
    close(fd);
}

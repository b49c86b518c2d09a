/*
 * frames: what a hostile guest sends and what an attentive one hears, one Ethernet frame at a time.
 *
 *   frames send DEVICE HEX [TIMES [BYTES]]   sends the frame TIMES times (once by default), filled up with zeros to BYTES;
 *                                            says "sent N" and, when some were refused, why
 *   frames listen DEVICE SECONDS [HEX]       prints each frame that arrives and contains HEX, as hex, then "heard N"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FRAME = 65536 };

static int open_device(const char *name)
{
    struct sockaddr_ll device = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    if (fd < 0 || !device.sll_ifindex || bind(fd, (struct sockaddr *)&device, sizeof device)) {
        fprintf(stderr, "frames: %s: %s\n", name, strerror(errno));
        exit(1);
    }
    struct packet_mreq all = {.mr_ifindex = device.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all);
    return fd;
}

/* Spaces, colons and dots between the digits are for people. */
static size_t parse(const char *hex, unsigned char *frame)
{
    size_t digits = 0;
    for (; *hex && digits < 2 * MAX_FRAME; hex++) {
        const char *place = strchr("0123456789abcdef", *hex | 0x20);
        if (!place || !strchr("0123456789abcdefABCDEF", *hex))
            continue;
        frame[digits / 2] = (unsigned char)(frame[digits / 2] << 4 | (place - "0123456789abcdef"));
        digits++;
    }
    return digits / 2;
}

static int send_frames(const char *name, const char *hex, long times, size_t bytes)
{
    static unsigned char frame[MAX_FRAME];
    size_t size = parse(hex, frame);
    long sent = 0;
    const char *reason = "";
    int fd = open_device(name);
    if (bytes > size && bytes <= sizeof frame)
        size = bytes;
    for (long i = 0; i < times; i++) {
        if (send(fd, frame, size, 0) == (ssize_t)size)
            sent++;
        else
            reason = strerror(errno);
    }
    printf("sent %ld%s%s\n", sent, *reason ? ", then: " : "", reason);
    return 0;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int listen_frames(const char *name, double seconds, const char *wanted)
{
    static unsigned char frame[MAX_FRAME], part[MAX_FRAME];
    size_t size = parse(wanted, part);
    long heard = 0;
    struct pollfd fd = {.fd = open_device(name), .events = POLLIN};
    printf("listening\n");
    fflush(stdout);
    for (double end = now() + seconds; now() < end && poll(&fd, 1, (int)((end - now()) * 1000) + 1) >= 0;) {
        struct sockaddr_ll from;
        socklen_t length = sizeof from;
        ssize_t got = recvfrom(fd.fd, frame, sizeof frame, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
        if (got <= 0 || from.sll_pkttype == PACKET_OUTGOING || !memmem(frame, (size_t)got, part, size))
            continue;
        heard++;
        for (ssize_t i = 0; i < got; i++)
            printf("%02x", frame[i]);
        printf("\n");
    }
    printf("heard %ld\n", heard);
    return 0;
}

int main(int count, char **words)
{
    if (count >= 4 && count <= 6 && strcmp(words[1], "send") == 0)
        return send_frames(words[2], words[3], count > 4 ? atol(words[4]) : 1, count > 5 ? (size_t)atol(words[5]) : 0);
    if (count >= 4 && count <= 5 && strcmp(words[1], "listen") == 0)
        return listen_frames(words[2], atof(words[3]), count > 4 ? words[4] : "");
    fprintf(stderr, "frames send DEVICE HEX [TIMES [BYTES]] | frames listen DEVICE SECONDS [HEX]\n");
    return 2;
}

/* What the parts of the tiny guest's init share. */
#ifndef BERTH_GUEST_H
#define BERTH_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Prints one "berth-guest: …" line on the serial console. */
__attribute__((format(printf, 1, 2))) void say(const char *format, ...);

/* The value of "name=VALUE" on the kernel's command line, "" for a bare "name", NULL when absent. Valid until the next call. */
const char *argument(const char *name);

/* The first line of a small file, without its newline; "" when it cannot be read. */
void first_line(const char *path, char *line, size_t size);

/* Seconds since the kernel began. */
double uptime(void);

/* Each of these runs in a process of its own and never returns. */
__attribute__((noreturn)) void serve(void);
__attribute__((noreturn)) void watch_power_button(void);

/* Brings up every ethN and asks for its addresses, also of those that are plugged in later. */
void start_network(void);

/* Writes a marker to the disk, reads it back and says what was found there before. */
void mark_disk(const char *device);

/* One line for each disk: "disk NAME BYTES". */
void describe_disks(FILE *out, const char *prefix);

#endif

/*
 * dirty SET_KIB KIB_PER_SECOND: changes its memory so fast, a word of a page at a time, anywhere in the same set of pages.
 *
 * The pages hold what does not compress. It does not catch up on what it did not get to in time: a guest whose CPUs are
 * slowed down changes less.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, TICK_NANOSECONDS = 5000000, MOST_BEHIND_SECONDS = 1 };

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    size_t pages = argc == 3 ? strtoul(argv[1], NULL, 10) * 1024 / PAGE : 0;
    double rate = argc == 3 ? strtod(argv[2], NULL) * 1024 / PAGE : 0, start, done = 0;
    if (!pages || rate <= 0) {
        fputs("usage: dirty SET_KIB KIB_PER_SECOND\n", stderr);
        return 2;
    }
    uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), word = 1;
    if (memory == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < pages * PAGE / sizeof word; i++) {
        word ^= word << 13, word ^= word >> 7, word ^= word << 17;
        memory[i] = word;
    }
    puts("dirty: it begins");
    fflush(stdout);
    start = now();
    for (;;) {
        double due = (now() - start) * rate;
        if (due - done > MOST_BEHIND_SECONDS * rate)
            start = now(), due = done = 0;
        for (; done < due; done++) {
            word ^= word << 13, word ^= word >> 7, word ^= word << 17;
            memory[word % pages * PAGE / sizeof word]++;
        }
        nanosleep(&(struct timespec){.tv_nsec = TICK_NANOSECONDS}, NULL);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* time_namespaces(7): what this namespace adds to CLOCK_BOOTTIME. */
static int64_t read_namespace_offset(void)
{
    int64_t offset = 0;
    FILE *file = fopen("/proc/self/timens_offsets", "re");
    if (file == NULL)
        return 0;
    char name[32];
    long long seconds;
    long long nanoseconds;
    while (fscanf(file, "%31s %lld %lld", name, &seconds, &nanoseconds) == 3) {
        if (strcmp(name, "boottime") == 0 || strcmp(name, "7") == 0)
            offset = seconds * QLI_NS_PER_SECOND + nanoseconds;
    }
    fclose(file);
    return offset;
}

#define UNKNOWN_OFFSET INT64_MIN

static int64_t namespace_offset = UNKNOWN_OFFSET; /* atomic */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* unshare(CLONE_NEWTIME) gives another namespace to the next child. */
static void forget_namespace(void)
{
    namespace_offset = UNKNOWN_OFFSET;
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_namespace);
}

/* Threads that come here at once read the same. */
static int64_t learn_namespace_offset(void)
{
    pthread_once(&fork_once, watch_forks);
    int64_t offset = read_namespace_offset();
    __atomic_store_n(&namespace_offset, offset, __ATOMIC_RELAXED);
    return offset;
}

int64_t qli_clock_boot_ns(void)
{
    int64_t offset = __atomic_load_n(&namespace_offset, __ATOMIC_RELAXED);
    if (__builtin_expect(offset == UNKNOWN_OFFSET, 0))
        offset = learn_namespace_offset();
    return qli_clock_read_ns(CLOCK_BOOTTIME) - offset;
}

bool qli_clock_nap(int64_t deadline_ns)
{
    const struct timespec nap = {.tv_nsec = QLI_NS_PER_MS};
    if (qli_clock_boot_ns() >= deadline_ns)
        return false;
    nanosleep(&nap, NULL);
    return true;
}

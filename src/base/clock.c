/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (int64_t)now.tv_sec * QLI_NS_PER_SECOND + now.tv_nsec;
}

int64_t qli_clock_calendar_ns(void)
{
    return read_clock(CLOCK_REALTIME_COARSE);
}

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

static int64_t namespace_offset;
static pthread_once_t namespace_once = PTHREAD_ONCE_INIT;

static void init_namespace_offset(void)
{
    namespace_offset = read_namespace_offset();
}

int64_t qli_clock_boot_ns(void)
{
    pthread_once(&namespace_once, init_namespace_offset);
    return read_clock(CLOCK_BOOTTIME) - namespace_offset;
}

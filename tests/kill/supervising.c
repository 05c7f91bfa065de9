/* SPDX-License-Identifier: Apache-2.0 */
#include "supervising.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCHDOG_SECONDS 120

/* ---- workers ------------------------------------------------------------- */

_Noreturn void kt_order_execute(const struct kt_order *order)
{
    char program[KT_PATH] = "";
    char words[4][32];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    KT_CHECK(length > 0, "readlink: %s", strerror(errno));
    snprintf(words[0], sizeof words[0], "%d", order->number);
    snprintf(words[1], sizeof words[1], "%llu", (unsigned long long)order->seed);
    snprintf(words[2], sizeof words[2], "%d", order->page_fd);
    snprintf(words[3], sizeof words[3], "%d", order->setting);
    execl(program, program, "--worker", words[0], words[1], words[2], words[3], order->store,
          (char *)NULL);
    _exit(5);
}

bool kt_order_read(int argc, char **argv, struct kt_order *order)
{
    if (argc != 7 || strcmp(argv[1], "--worker") != 0)
        return false;
    *order = (struct kt_order){
        .number = atoi(argv[2]),
        .seed = strtoull(argv[3], NULL, 10),
        .page_fd = atoi(argv[4]),
        .setting = atoi(argv[5]),
        .store = argv[6],
    };
    return true;
}

void kt_bury(pid_t pid, int number, const char *error)
{
    int status = kt_kill(pid);
    KT_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "worker %d ended alone (%#x): %s",
             number, (unsigned)status, error);
}

/* ---- the page ------------------------------------------------------------ */

void *kt_page_map(int fd, size_t size)
{
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    KT_CHECK(page != MAP_FAILED, "mmap: %s", strerror(errno));
    return page;
}

void *kt_page_make(size_t size, int *fd)
{
    *fd = memfd_create("page", 0);
    KT_CHECK(*fd >= 0 && ftruncate(*fd, (off_t)size) == 0, "memfd: %s", strerror(errno));
    return kt_page_map(*fd, size);
}

/* ---- the watchdog -------------------------------------------------------- */

static void end_program(int signal_number)
{
    (void)signal_number;
    static const char text[] = "FAIL: no progress: a deadlock, or a machine that stands still\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    _exit(1);
}

void kt_watch(void)
{
    signal(SIGALRM, end_program);
    alarm(WATCHDOG_SECONDS);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls are held up by a seccomp filter that asks the listener, which is
 * the thread that started the run: it lets them go on or gives them an error.
 * A filter belongs to its thread and ends with it. Allocations come here because
 * the program is linked with --wrap.
 */
#include "inject.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "harness.h"

/* ---- system calls -------------------------------------------------------- */

/* What the run says with a call that nothing else makes. */
#define CALL_BEGIN SYS_getpgid
#define CALL_END SYS_getsid

struct run {
    _Atomic int listener;
    void (*function)(void *context);
    void *context;
};

#define PASS(number)                                                                               \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1),                                           \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

void inject_refusal(long number, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof code / sizeof code[0], code};
    KT_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "prctl: %s", strerror(errno));
    KT_CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0, "seccomp: %s",
             strerror(errno));
}

static int install_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        PASS(SYS_close),
        PASS(SYS_munmap),
        PASS(SYS_futex),
        PASS(SYS_sched_yield),
        PASS(SYS_clock_gettime),
        PASS(SYS_rt_sigprocmask),
        PASS(SYS_rt_sigreturn),
        PASS(SYS_exit),
        PASS(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
    };
    const struct sock_fprog program = {sizeof code / sizeof code[0], code};
    KT_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "prctl: %s", strerror(errno));
    int listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    KT_CHECK(listener >= 0, "seccomp: %s; the kernel or a container forbids it", strerror(errno));
    return listener;
}

static void *run_filtered(void *argument)
{
    struct run *run = argument;
    run->listener = install_filter();
    syscall(CALL_BEGIN, 0);
    run->function(run->context);
    syscall(CALL_END, 0);
    return NULL;
}

/* A sanitizer's runtime makes its calls itself; the library through libc. */
static bool made_by_libc(uint64_t instruction)
{
    Dl_info libc;
    Dl_info caller;
    KT_CHECK(dladdr(dlsym(RTLD_DEFAULT, "gnu_get_libc_version"), &libc) != 0, "where is libc?");
    return dladdr((void *)(uintptr_t)instruction, &caller) != 0 &&
           caller.dli_fbase == libc.dli_fbase;
}

/* Answers one call: with an error, or 0 to let it go on. */
static void answer(int listener, uint64_t id, int error)
{
    struct seccomp_notif_resp response = {
        .id = id,
        .error = -error,
        .flags = error == 0 ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0,
    };
    KT_CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) == 0, "the listener: %s",
             strerror(errno));
}

static long failed_call;

long inject_failed_call(void)
{
    return failed_call;
}

static size_t listen_to(int listener, size_t nth, int error)
{
    size_t calls = 0;
    bool begun = false;
    for (;;) {
        struct seccomp_notif call = {0};
        KT_CHECK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0, "the listener: %s",
                 strerror(errno));
        bool ended = call.data.nr == CALL_END;
        bool counts = begun && !ended && made_by_libc(call.data.instruction_pointer);
        calls += counts;
        bool fails = counts && calls == nth;
        if (fails)
            failed_call = call.data.nr;
        answer(listener, call.id, fails ? error : 0);
        begun |= call.data.nr == CALL_BEGIN;
        if (ended)
            return calls;
    }
}

/* The thread's end makes calls too. */
static void let_end(pthread_t thread, int listener)
{
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        struct pollfd listened = {.fd = listener, .events = POLLIN};
        struct seccomp_notif call = {0};
        if (poll(&listened, 1, 1) == 1 && (listened.revents & POLLIN) != 0 &&
            ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0)
            answer(listener, call.id, 0);
    }
}

size_t inject_system_call(size_t nth, int error, void (*function)(void *context), void *context)
{
    struct run run = {.listener = -1, .function = function, .context = context};
    pthread_t thread;
    KT_CHECK(pthread_create(&thread, NULL, run_filtered, &run) == 0, "pthread_create");
    while (run.listener < 0)
        sched_yield();
    size_t calls = listen_to(run.listener, nth, error);
    let_end(thread, run.listener);
    close(run.listener);
    return calls;
}

/* ---- allocations --------------------------------------------------------- */

static size_t failing_allocation;
static size_t allocations;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);

void *__wrap_malloc(size_t size)
{
    return ++allocations == failing_allocation ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return ++allocations == failing_allocation ? NULL : __real_calloc(count, size);
}

void inject_allocation(size_t nth)
{
    failing_allocation = nth;
    allocations = 0;
}

size_t inject_allocations(void)
{
    return allocations;
}

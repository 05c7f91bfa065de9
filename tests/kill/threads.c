/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads on one store, each case by its name; see threads.h.
 *
 *   threads CASE
 */
#include "threads.h"

#include <pthread.h>

static pthread_barrier_t meeting;

struct thread {
    pthread_t thread;
    void (*body)(void *context, int number);
    void *context;
    int number;
};

void kt_meet(void)
{
    pthread_barrier_wait(&meeting);
}

static void *start(void *argument)
{
    const struct thread *thread = argument;
    kt_meet();
    thread->body(thread->context, thread->number);
    return NULL;
}

void kt_threads(void (*body)(void *context, int number), void *context)
{
    struct thread threads[KT_THREADS];
    pthread_barrier_init(&meeting, NULL, KT_THREADS);
    for (int i = 0; i < KT_THREADS; i++) {
        threads[i] = (struct thread){.body = body, .context = context, .number = i};
        KT_CHECK(pthread_create(&threads[i].thread, NULL, start, &threads[i]) == 0,
                 "pthread_create");
    }
    for (int i = 0; i < KT_THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    pthread_barrier_destroy(&meeting);
}

static const struct kt_case cases[] = {
    {"mixed", kt_thread_mixed},
    {"revoke_across", kt_thread_revoke_across},
    {"roll_over", kt_thread_roll_over},
    {"max_age", kt_thread_max_age},
    {"full", kt_thread_full},
    {"limits", kt_thread_limits},
    {"visits", kt_thread_visits},
    {"open_first", kt_thread_open_first},
    {"open_close", kt_thread_open_close},
    {"register_race", kt_thread_register_race},
    {"fork_while_calling", kt_thread_fork_while_calling},
    {"closefrom", kt_thread_closefrom},
    {"removed", kt_thread_removed},
    {"held_lock", kt_thread_held_lock},
    {"contended", kt_thread_contended},
    {"steal", kt_thread_steal},
    {"dead_slots", kt_thread_dead_slots},
    {"late_reaper", kt_thread_late_reaper},
};

int main(int argc, char **argv)
{
    return kt_case_main(argc, argv, cases, sizeof cases / sizeof cases[0]);
}

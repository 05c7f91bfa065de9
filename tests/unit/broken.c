/* SPDX-License-Identifier: Apache-2.0 */
#include "broken.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define LONG_NAME                                                                                  \
    "a-subject-whose-name-is-longer-than-what-a-slot-holds-inline-so-that-it-needs-a-second-slot-" \
    "to-hold-the-rest-of-it"

static char directory[KT_PATH];
static int64_t clock_ns = KT_START_NS;

int broken_set_up(void **state)
{
    static struct scene scene;
    struct ql_options options = kt_options(&clock_ns, 3, 8);
    struct ql_lease lease;
    kt_directory_make(directory, NULL);
    scene.ql = kt_open(directory, &options);
    assert_int_equal(ql_charge(scene.ql, "alice", "bytes", 7, NULL), QL_OK);
    assert_int_equal(ql_charge(scene.ql, "alice", "statements", 1, NULL), QL_OK);
    assert_int_equal(ql_charge(scene.ql, "bob", "bytes", 5, NULL), QL_OK);
    assert_int_equal(ql_charge(scene.ql, LONG_NAME, "bytes", 3, NULL), QL_OK);
    assert_int_equal(ql_acquire(scene.ql, "alice", &lease, NULL), QL_OK);
    assert_int_equal(ql_acquire(scene.ql, "alice", &lease, NULL), QL_OK);
    struct ql_lease other;
    assert_int_equal(ql_acquire(scene.ql, "bob", &other, NULL), QL_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ql_acquire(scene.ql, "bob", &lease, NULL), QL_OK);
        assert_int_equal(ql_revoke(scene.ql, lease), QL_OK); /* kept */
    }
    assert_int_equal(ql_release(scene.ql, other), QL_OK); /* free */
    scene.view = kt_view_open(directory);
    scene.plant = plant_open(&scene.view);
    scene.alice = plant_subject(&scene.plant, "alice");
    scene.bob = plant_subject(&scene.plant, "bob");
    scene.wide = plant_subject(&scene.plant, LONG_NAME);
    scene.shard = scene.plant.section.shard;
    scene.page = scene.plant.engine.page;
    scene.first = qli_subject_first_lease(scene.alice);
    scene.shard->subject_free = ++scene.shard->subject_top; /* as after an eviction */
    assert_int_equal(ql_verify(scene.ql, NULL, NULL), QL_OK);
    *state = &scene;
    return 0;
}

int broken_tear_down(void **state)
{
    struct scene *scene = *state;
    kt_view_close(&scene->view);
    ql_close(scene->ql);
    kt_directory_remove(directory);
    return 0;
}

static void expect_tag(const struct fault *fault, const struct ql_error *error)
{
    char tag[] = {'[', (char)(fault->name[0] - 'a' + 'A'), fault->name[1], ']', '\0'};
    const char *found = strstr(error->text, tag);
    if (found == NULL || strchr(found + 1, '[') != NULL || strchr(error->text, '[') != found)
        fail_msg("%s: verify says '%s'", fault->name, error->text);
}

void broken_expect_each_named(const struct fault *faults, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        void *scene;
        struct ql_error error = {0};
        broken_set_up(&scene);
        faults[i].plant(scene);
        enum ql_status status = ql_verify(((struct scene *)scene)->ql, NULL, &error);
        if (status != QL_E_CORRUPT)
            fail_msg("%s: verify gives %s", faults[i].name, ql_status_name(status));
        expect_tag(&faults[i], &error);
        broken_tear_down(&scene);
    }
}

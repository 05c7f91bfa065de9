/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens a store whose files somebody has written over, cut, or changed while it
 * was open, and calls everything. The input is a byte of flags and then edits
 * of four bytes: where (two bytes; the high bit chooses the file), how, a value.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/siphash.h"
#include "exercise.h"
#include "region/guard.h"
#include "region/lockfile.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum flag {
    SEAL_REGION = 1,     /* the header's checksum is made right again */
    SEAL_LOCK = 2,       /* the record's too */
    CUT = 4,             /* the first edit is where the region ends */
    WHILE_OPEN = 8,      /* the edits come after the open */
    FOREIGN_REGION = 16, /* the input stands in the region's place */
    FOREIGN_LOCK = 32,
};

#define EDIT_BYTES 4
#define LOCK_BIT 0x8000u

static char directory[] = "/dev/shm/quotalite-fuzz.XXXXXX";
static int64_t clock_ns = INT64_C(1700000000000000000);
static unsigned char *template;
static size_t template_size;
static struct qli_lock_record template_record;

static int open_file(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        perror(path);
        abort();
    }
    return fd;
}

static void expect(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "the harness: %s\n", what);
    abort();
}

/* ---- the sound store ----------------------------------------------------- */

static void remove_directory(void)
{
    DIR *folder = opendir(directory);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(folder), entry->d_name, 0);
    }
    if (folder != NULL)
        closedir(folder);
    rmdir(directory);
}

/* A process that ends without closing leaves leases and a holder that is dead. */
static void fill_and_die(void)
{
    struct ql_options options = exercise_options(&clock_ns);
    struct ql *ql;
    struct ql_error error;
    if (ql_open(directory, &options, &ql, &error) != QL_OK) {
        fprintf(stderr, "%s\n", error.text);
        _exit(1);
    }
    exercise_fill(ql);
    _exit(0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    expect(mkdtemp(directory) != NULL, "no directory in /dev/shm");
    atexit(remove_directory);
    pid_t pid = fork();
    if (pid == 0)
        fill_and_die();
    int status;
    expect(waitpid(pid, &status, 0) == pid && status == 0, "the store cannot be filled");
    int fd = open_file("region");
    struct stat info;
    expect(fstat(fd, &info) == 0 && info.st_size > 0, "there is no region");
    template_size = (size_t)info.st_size;
    template = malloc(template_size);
    expect(template != NULL && pread(fd, template, template_size, 0) == (ssize_t)template_size,
           "the region cannot be read");
    close(fd);
    bool empty;
    fd = open_file("lock");
    expect(qli_lockfile_read(fd, &template_record, &empty, NULL) == QL_OK && !empty,
           "the lock file cannot be read");
    close(fd);
    return 0;
}

/* ---- the edits ----------------------------------------------------------- */

/* Anywhere, or in the region's header, its guards, or the first records of its
 * body: few bytes that matter much. */
static size_t place_of(const uint8_t *how, size_t size)
{
    const struct qli_region_header *header = (const struct qli_region_header *)template;
    size_t where = (size_t)(how[0] | (how[1] & 0x7f) << 8);
    if (size != template_size)
        return where % size;
    switch (how[2] >> 6) {
    case 0:
        return where % size;
    case 1:
        return where % sizeof *header;
    case 2:
        return header->guards_offset + where % 128;
    default:
        return header->body_offset + where % 2048;
    }
}

static void edit(unsigned char *bytes, size_t size, const uint8_t *how)
{
    size_t where = place_of(how, size);
    if (how[2] & 1)
        bytes[where] ^= how[3];
    else
        bytes[where] = how[3];
    if ((how[2] & 2) == 0)
        return;
    /* A whole word: small numbers are what indices are. */
    uint64_t word = how[2] & 4 ? (uint64_t)how[3] : (uint64_t)how[3] << (how[2] >> 3 & 7) * 8;
    memcpy(bytes + where / 8 * 8 % (size - 7), &word, sizeof word);
}

/* A lock whose word names the living is waited for, in open and close for 5 s.
 * That is right, and too slow here. */
static void end_living_words(unsigned char *region)
{
    struct qli_region_header header;
    memcpy(&header, template, sizeof header);
    struct qli_guard *guards = (struct qli_guard *)(region + header.guards_offset);
    for (uint64_t i = 0; i < header.guard_count; i++)
        guards[i].word &= ~(UINT64_C(0xffffff) << 17);
}

static void seal_region(unsigned char *region)
{
    static const uint64_t key[2];
    struct qli_region_header *header = (struct qli_region_header *)region;
    header->checksum = qli_siphash(key, header, offsetof(struct qli_region_header, checksum));
}

static void apply(const uint8_t *edits, size_t count, bool to_lock, unsigned char *bytes,
                  size_t size)
{
    for (size_t i = 0; i < count; i++) {
        const uint8_t *how = edits + i * EDIT_BYTES;
        if (((how[1] & 0x80) != 0) == to_lock)
            edit(bytes, size, how);
    }
}

static void write_region(uint8_t flags, const uint8_t *edits, size_t count)
{
    unsigned char *region = malloc(template_size);
    expect(region != NULL, "no memory");
    memcpy(region, template, template_size);
    size_t size = template_size;
    if ((flags & FOREIGN_REGION) != 0)
        memcpy(region, edits, count * EDIT_BYTES);
    else if ((flags & WHILE_OPEN) == 0)
        apply(edits, count, false, region, template_size);
    if ((flags & CUT) != 0 && count > 0)
        size = (size_t)(edits[0] | edits[1] << 8) % template_size;
    end_living_words(region);
    if ((flags & SEAL_REGION) != 0)
        seal_region(region);
    int fd = open_file("region");
    struct stat info;
    expect(ftruncate(fd, (off_t)size) == 0 && pwrite(fd, region, size, 0) == (ssize_t)size &&
               fstat(fd, &info) == 0,
           "the region cannot be written");
    template_record.region_inode = info.st_ino;
    template_record.region_device = info.st_dev;
    close(fd);
    free(region);
}

static void write_lock(uint8_t flags, const uint8_t *edits, size_t count)
{
    struct qli_lock_record record = template_record;
    int fd = open_file("lock");
    expect(ftruncate(fd, 0) == 0 && qli_lockfile_write(fd, &record, NULL) == QL_OK,
           "the lock file cannot be written");
    if ((flags & FOREIGN_LOCK) != 0) {
        size_t size = count * EDIT_BYTES;
        expect(ftruncate(fd, (off_t)size) == 0 && pwrite(fd, edits, size, 0) == (ssize_t)size,
               "the lock file cannot be written");
    } else {
        apply(edits, count, true, (unsigned char *)&record, sizeof record);
        if ((flags & SEAL_LOCK) != 0)
            expect(qli_lockfile_write(fd, &record, NULL) == QL_OK, "the lock file");
        else
            expect(pwrite(fd, &record, sizeof record, 0) == sizeof record, "the lock file");
    }
    close(fd);
}

/* Through the file: the mapping sees it. */
static void edit_while_open(const uint8_t *edits, size_t count)
{
    unsigned char *region = malloc(template_size);
    int fd = open_file("region");
    struct stat info;
    expect(region != NULL && fstat(fd, &info) == 0, "the region cannot be read");
    if (info.st_size == (off_t)template_size &&
        pread(fd, region, template_size, 0) == (ssize_t)template_size) {
        apply(edits, count, false, region, template_size);
        end_living_words(region);
        expect(pwrite(fd, region, template_size, 0) == (ssize_t)template_size, "the region");
    }
    close(fd);
    free(region);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + EDIT_BYTES)
        return 0;
    uint8_t flags = data[0];
    const uint8_t *edits = data + 1;
    size_t count = (size - 1) / EDIT_BYTES;
    if (count * EDIT_BYTES > template_size)
        return 0;
    write_region(flags, edits, count);
    write_lock(flags, edits, count);
    struct ql_options options = exercise_options(&clock_ns);
    options.replace_limits = true;
    struct ql *ql;
    struct ql_error error;
    if (ql_open(directory, &options, &ql, &error) != QL_OK) {
        expect(error.text[0] != '\0', "an error without a text");
        return 0;
    }
    uint64_t random = size;
    exercise_all(ql, &random);
    if ((flags & WHILE_OPEN) != 0)
        edit_while_open(edits, count);
    exercise_all(ql, &random);
    ql_close(ql);
    return 0;
}

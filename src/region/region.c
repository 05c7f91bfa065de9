/* SPDX-License-Identifier: Apache-2.0
 *
 * A death inside create leaves a file that nobody has a name for, or one under
 * a temporary name; attach.c removes it. A death inside map leaves nothing.
 */
#include "region/region.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/siphash.h"
#include "base/system.h"

#define BODY_ALIGNMENT 4096u

static uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) / alignment * alignment;
}

static uint64_t header_checksum(const struct qli_region_header *header)
{
    static const uint64_t key[2];
    return qli_siphash(key, header, offsetof(struct qli_region_header, checksum));
}

enum ql_status qli_region_boot_id(char boot_id[QLI_BOOT_ID_SIZE], struct ql_error *error)
{
    memset(boot_id, 0, QLI_BOOT_ID_SIZE);
    int fd = qli_system_open(AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0);
    ssize_t length = fd < 0 ? -1 : read(fd, boot_id, 36);
    int cause = length < 0 ? errno : EIO;
    if (fd >= 0)
        close(fd);
    if (length != 36)
        return qli_error(error, QL_E_SYSTEM, cause,
                         "cannot read /proc/sys/kernel/random/boot_id: %s; is /proc mounted?",
                         strerror(cause));
    return QL_OK;
}

static enum ql_status draw_random(struct qli_region_header *header, struct ql_error *error)
{
    if (getrandom(header->uuid, sizeof header->uuid, 0) != (ssize_t)sizeof header->uuid ||
        getrandom(header->hash_key, sizeof header->hash_key, 0) != (ssize_t)sizeof header->hash_key)
        return qli_error(error, QL_E_SYSTEM, errno, "the kernel gave no random numbers: %s",
                         strerror(errno));
    header->uuid[0] |= 1; /* an epoch is never 0 */
    return QL_OK;
}

static enum ql_status plan_header(const struct qli_region_plan *plan,
                                  struct qli_region_header *header, struct ql_error *error)
{
    memcpy(header->magic, QLI_REGION_MAGIC, sizeof header->magic);
    header->endian = QLI_ENDIAN_TAG;
    header->version = QLI_REGION_VERSION;
    header->stamp = plan->stamp;
    header->holder_count = plan->holder_count;
    header->holders_offset = align_up(sizeof *header, QLI_CACHE_LINE);
    header->guard_count = plan->guard_count;
    header->guards_offset = header->holders_offset + plan->holder_count * sizeof(struct qli_holder);
    header->body_offset = align_up(
        header->guards_offset + plan->guard_count * sizeof(struct qli_guard), BODY_ALIGNMENT);
    header->size = align_up(header->body_offset + plan->body_size, BODY_ALIGNMENT);
    header->injected_clock = plan->injected_clock;
    memcpy(header->params, plan->params, sizeof header->params);
    enum ql_status status = qli_region_boot_id(header->boot_id, error);
    return status == QL_OK ? draw_random(header, error) : status;
}

static void set_pointers(struct qli_region *region, const struct qli_region_header *header)
{
    region->header = (struct qli_region_header *)region->base;
    region->holders = (struct qli_holder *)(region->base + header->holders_offset);
    region->guards = (struct qli_guard *)(region->base + header->guards_offset);
    region->size = header->size;
    region->holder_count = header->holder_count;
    region->guard_count = header->guard_count;
    region->body_offset = header->body_offset;
}

static enum ql_status map_pages(struct qli_region *region, int fd, uint64_t size,
                                struct ql_error *error)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return qli_error(error, QL_E_SYSTEM, errno,
                         "cannot map %llu bytes: %s; make the store smaller (max_subjects) or "
                         "raise the limit on address space",
                         (unsigned long long)size, strerror(errno));
    region->base = base;
    return QL_OK;
}

enum ql_status qli_region_create(int fd, const struct qli_region_plan *plan, struct ql_error *error)
{
    struct qli_region_header header = {0};
    enum ql_status status = plan_header(plan, &header, error);
    if (status != QL_OK)
        return status;
    int cause = qli_system_allocate(fd, header.size);
    if (cause != 0)
        return qli_error(error, QL_E_SYSTEM, cause,
                         "cannot allocate %llu bytes for the region: %s; free some space or make "
                         "the store smaller (max_subjects)",
                         (unsigned long long)header.size, strerror(cause));
    struct qli_region region = qli_region_none();
    status = map_pages(&region, fd, header.size, error);
    if (status != QL_OK)
        return status;
    set_pointers(&region, &header);
    header.checksum = header_checksum(&header);
    *region.header = header;
    munmap(region.base, region.size);
    return QL_OK;
}

/* Whether the parts lie in the file one after the other. */
static bool geometry_valid(const struct qli_region_header *header, uint64_t file_size)
{
    const uint64_t many = UINT64_C(1) << 32;
    if (header->size != file_size || header->holder_count == 0 || header->holder_count > many ||
        header->guard_count == 0 || header->guard_count > many)
        return false;
    uint64_t holders_end =
        header->holders_offset + header->holder_count * sizeof(struct qli_holder);
    uint64_t guards_end = header->guards_offset + header->guard_count * sizeof(struct qli_guard);
    return header->holders_offset >= sizeof *header && header->holders_offset <= file_size &&
           header->guards_offset >= holders_end && header->guards_offset <= file_size &&
           header->body_offset >= guards_end && header->body_offset <= file_size &&
           header->holders_offset % 8 == 0 && header->guards_offset % 8 == 0 &&
           header->body_offset % 8 == 0;
}

enum ql_status qli_region_inspect(int fd, uint64_t stamp, struct qli_region_header *header,
                                  struct ql_error *error)
{
    struct stat info;
    ssize_t length = pread(fd, header, sizeof *header, 0);
    if (length < 0 || fstat(fd, &info) != 0)
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the region: %s", strerror(errno));
    if (length != (ssize_t)sizeof *header ||
        memcmp(header->magic, QLI_REGION_MAGIC, sizeof header->magic) != 0)
        return qli_error(error, QL_E_CORRUPT, 0, "the region is no quotalite region");
    if (header->endian != QLI_ENDIAN_TAG)
        return qli_error(error, QL_E_VERSION, 0,
                         "the region was made by a machine of another byte order");
    if (header->version != QLI_REGION_VERSION || header->stamp != stamp)
        return qli_error(error, QL_E_VERSION, 0,
                         "the region has layout %u (stamp %016llx), this library (%s) reads "
                         "layout %u (stamp %016llx): use one version of quotalite for all "
                         "processes of the store; to go to this one, end those of the other in an "
                         "orderly way and remove the region, which is made anew out of the ledger",
                         header->version, (unsigned long long)header->stamp, ql_version(),
                         QLI_REGION_VERSION, (unsigned long long)stamp);
    if (header->checksum != header_checksum(header) ||
        !geometry_valid(header, (uint64_t)info.st_size))
        return qli_error(error, QL_E_CORRUPT, 0, "the region's header is damaged");
    return QL_OK;
}

enum ql_status qli_region_map(struct qli_region *region, int fd,
                              const struct qli_region_header *header, struct ql_error *error)
{
    enum ql_status status = map_pages(region, fd, header->size, error);
    if (status != QL_OK)
        return status;
    set_pointers(region, header);
    if (!qli_system_identify(fd, "", &region->region_file))
        return qli_error(error, QL_E_SYSTEM, errno, "cannot read the region: %s", strerror(errno));
    region->region_fd = fd;
    void *page = mmap(NULL, sizeof(struct qli_self), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return qli_error(error, QL_E_NOMEM, errno, "out of memory");
    region->self = page;
    if (madvise(page, sizeof(struct qli_self), MADV_WIPEONFORK) != 0)
        return qli_error(error, QL_E_SYSTEM, errno,
                         "the kernel has no MADV_WIPEONFORK: Linux 4.14 or later is needed");
    return QL_OK;
}

struct qli_region qli_region_none(void)
{
    return (struct qli_region){.lock_fd = -1, .region_fd = -1, .token_fd = -1};
}

/* A host may have closed the descriptor and got its number for another file. */
static void close_own(int fd, struct qli_file_id file)
{
    struct qli_file_id id;
    if (fd >= 0 && qli_system_identify(fd, "", &id) && qli_file_id_equal(id, file))
        close(fd);
}

void qli_region_unmap(struct qli_region *region)
{
    if (region->base != NULL)
        munmap(region->base, region->size);
    if (region->self != NULL)
        munmap(region->self, sizeof(struct qli_self));
    close_own(region->token_fd, region->lock_file);
    close_own(region->region_fd, region->region_file);
    close_own(region->lock_fd, region->lock_file);
    *region = qli_region_none();
}

enum ql_status qli_region_look(const struct qli_region *region)
{
    struct stat lock;
    struct stat info;
    if (fstat(region->region_fd, &info) != 0 || fstat(region->lock_fd, &lock) != 0)
        return QL_E_DETACHED;
    bool named = info.st_nlink != 0 && lock.st_nlink != 0;
    return named || !region->has_name ? QL_OK : QL_E_GONE;
}

enum ql_status qli_region_poison(struct qli_region *region)
{
    __atomic_store_n(&region->header->corrupt, 1, __ATOMIC_RELAXED);
    return QL_E_CORRUPT;
}

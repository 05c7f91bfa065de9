/* SPDX-License-Identifier: Apache-2.0
 *
 * The public header alone, twice, in strict C11.
 */
#include <quotalite.h>

#include <string.h>

/* Again: the guard holds. */
#include <quotalite.h>

int main(void)
{
    struct ql_options options = QL_OPTIONS_INIT;
    struct ql_lease none = {0};

    if (options.size != sizeof(options) || none.epoch != 0)
        return 1;
    return strcmp(ql_status_name(QL_E_BUSY), "QL_E_BUSY") != 0;
}

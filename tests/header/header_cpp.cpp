/* SPDX-License-Identifier: Apache-2.0
 *
 * The public header alone, in C++17: it links (extern "C") and does not warn.
 */
#include <quotalite.h>

#include <cstring>

int main()
{
    ql_lease none{};

    if (none.epoch != 0)
        return 1;
    return std::strcmp(ql_status_name(QL_E_BUSY), "QL_E_BUSY") != 0;
}

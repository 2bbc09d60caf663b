/* cmocka with the headers it wants before it. */
#ifndef NPO_TESTS_UNIT_CMOCKA_H
#define NPO_TESTS_UNIT_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif

#include "proto/address.h"

#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <string.h>

static void test_address_derives_bulk_and_hints(void **state)
{
    static const struct {
        const char *control, *bulk, *hints;
    } cases[] = {
        {"ipc:///a/npod.sock", "ipc:///a/npod.bulk.sock", "ipc:///a/npod.hints.sock"},
        {"tcp://127.0.0.1:7000", "tcp://127.0.0.1:7001", "tcp://127.0.0.1:7002"},
        {"tcp://host:65533", "tcp://host:65534", "tcp://host:65535"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char address[NPO_ADDRESS_SIZE];
        npo_error error;
        assert_int_equal(
            npo_address_derive(cases[i].control, NPO_ENDPOINT_CONTROL, address, &error), NPO_OK);
        assert_string_equal(address, cases[i].control);
        assert_int_equal(npo_address_derive(cases[i].control, NPO_ENDPOINT_BULK, address, &error),
                         NPO_OK);
        assert_string_equal(address, cases[i].bulk);
        assert_int_equal(npo_address_derive(cases[i].control, NPO_ENDPOINT_HINTS, address, &error),
                         NPO_OK);
        assert_string_equal(address, cases[i].hints);
    }
}

static void test_address_refuses_what_nobody_can_listen_on(void **state)
{
    static const char *const bad[] = {
        "",           "npod.sock",   "ipc://",   "ipc:///a/npod", "ipc://.sock",   "tcp://",
        "tcp://host", "tcp://:7000", "tcp://h:", "tcp://h:0",     "tcp://h:65534", "tcp://h:7x",
        "tcp://h:-1", "http://h:80",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char address[NPO_ADDRESS_SIZE];
        npo_error error = {0};
        assert_int_equal(npo_address_derive(bad[i], NPO_ENDPOINT_CONTROL, address, &error),
                         NPO_E_USAGE);
        assert_non_null(strstr(error.text, bad[i]));
    }
}

static void test_address_refuses_a_path_too_long_for_a_socket(void **state)
{
    char control[200], address[NPO_ADDRESS_SIZE];
    npo_error error = {0};
    /* "ipc://" + path + ".hints.sock" may have a path of 107 bytes. */
    snprintf(control, sizeof control, "ipc:///%0*d.sock", 95, 0);
    assert_int_equal(npo_address_derive(control, NPO_ENDPOINT_HINTS, address, &error), NPO_OK);
    assert_int_equal(strlen(address) - strlen("ipc://"), 107);
    snprintf(control, sizeof control, "ipc:///%0*d.sock", 96, 0);
    assert_int_equal(npo_address_derive(control, NPO_ENDPOINT_CONTROL, address, &error),
                     NPO_E_USAGE);
    assert_non_null(strstr(error.text, "1 bytes too long"));
}

static void test_address_knows_what_is_local(void **state)
{
    assert_true(npo_address_is_local("ipc:///a/npod.sock"));
    assert_true(npo_address_is_local("tcp://127.0.0.1:1"));
    assert_true(npo_address_is_local("tcp://127.9.9.9:1"));
    assert_true(npo_address_is_local("tcp://localhost:1"));
    assert_false(npo_address_is_local("tcp://0.0.0.0:1"));
    assert_false(npo_address_is_local("tcp://*:1"));
    assert_false(npo_address_is_local("tcp://127.0.0.1.example.org:1"));
    assert_false(npo_address_is_local("tcp://128.0.0.1:1"));
    assert_false(npo_address_is_local("tcp://localhost.example.org:1"));
    assert_false(npo_address_is_local("udp://127.0.0.1:1"));
}

static void test_address_of_state_is_in_the_folder(void **state)
{
    char address[NPO_ADDRESS_SIZE];
    npo_error error;
    assert_int_equal(npo_address_of_state("/tmp/../tmp", address, &error), NPO_OK);
    assert_string_equal(address, "ipc:///tmp/npod.sock");
    assert_int_equal(npo_address_of_state("/not/there", address, &error), NPO_OK);
    assert_string_equal(address, "ipc:///not/there/npod.sock");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_address_derives_bulk_and_hints),
        cmocka_unit_test(test_address_refuses_what_nobody_can_listen_on),
        cmocka_unit_test(test_address_refuses_a_path_too_long_for_a_socket),
        cmocka_unit_test(test_address_knows_what_is_local),
        cmocka_unit_test(test_address_of_state_is_in_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

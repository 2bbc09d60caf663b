/* Addresses of npod: one is given (control), two are derived.
 *   ipc:///path/npod.sock   -> ipc:///path/npod.bulk.sock, ipc:///path/npod.hints.sock
 *   tcp://HOST:PORT         -> PORT + 1, PORT + 2 */
#ifndef NPO_PROTO_ADDRESS_H
#define NPO_PROTO_ADDRESS_H

#include "common/err.h"
#include <stdbool.h>

enum { NPO_ADDRESS_SIZE = 160 };

typedef enum { NPO_ENDPOINT_CONTROL, NPO_ENDPOINT_BULK, NPO_ENDPOINT_HINTS } npo_endpoint;

/* Checks the control address and derives. Errors: NPO_E_USAGE with the sentence (unknown transport,
 * a port that leaves no room for three, a path too long for a socket or not ending in ".sock"). */
npo_err npo_address_derive(const char *control, npo_endpoint endpoint,
                           char ret_address[NPO_ADDRESS_SIZE], npo_error *error) NPO_MUST_CHECK;
/* True for ipc and for tcp on the loopback (127.0.0.0/8, localhost). */
bool npo_address_is_local(const char *address);
/* "ipc://STATE/npod.sock" with STATE made absolute: where npod of that folder listens by default.
 */
npo_err npo_address_of_state(const char *state_dir, char ret_address[NPO_ADDRESS_SIZE],
                             npo_error *error) NPO_MUST_CHECK;

#endif

/* What npoctl says about itself. */
#ifndef NPO_CTL_COMMANDS_HELP_H
#define NPO_CTL_COMMANDS_HELP_H

#include "ctl/exit.h"

void npo_help_print(void *file); /* a FILE */
/* Names the nearest command; NPO_EXIT_USAGE. */
npo_exit npo_help_unknown(const char *name);

#endif

/* What evaluate and report agree on besides the file of features. */
#ifndef NPO_WORKER_TASKS_EVALUATION_REPORT_H
#define NPO_WORKER_TASKS_EVALUATION_REPORT_H

/* The first samples of the first seed are shown. */
enum { NPO_REPORT_GRID_ROWS = 10 };

#endif

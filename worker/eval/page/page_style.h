/* The style of report.html. */
#ifndef NPO_WORKER_EVAL_PAGE_PAGE_STYLE_H
#define NPO_WORKER_EVAL_PAGE_PAGE_STYLE_H

extern const char npo_page_style[];

#endif

#include "common/memory.h"

#include <stdio.h>
#include <string.h>

/* The value of a line "NAME:   123 kB", in bytes. */
static size_t read_line(const char *path, const char *name)
{
    char line[256];
    size_t len = strlen(name);
    unsigned long long kib = 0;
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            sscanf(line + len + 1, "%llu", &kib);
            break;
        }
    if (file)
        fclose(file);
    return (size_t)kib << 10;
}

size_t npo_memory_resident(void)
{
    return read_line("/proc/self/status", "VmRSS");
}

size_t npo_memory_peak(void)
{
    return read_line("/proc/self/status", "VmHWM");
}

size_t npo_memory_available(void)
{
    return read_line("/proc/meminfo", "MemAvailable");
}

npo_memory npo_memory_now(size_t limit, size_t reusable)
{
    size_t resident = npo_memory_resident();
    return (npo_memory){
        .given = limit ? limit : resident + npo_memory_available(),
        .used = resident > reusable ? resident - reusable : 0,
    };
}

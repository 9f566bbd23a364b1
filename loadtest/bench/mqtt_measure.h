/* What is measured: latencies in a histogram, and what the kernel says of the broker's processes. */
#ifndef MQTT_MEASURE_H
#define MQTT_MEASURE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUBSTEPS = 64, STEPS = 60 * SUBSTEPS };
static const uint64_t SECOND = 1000000000;
static uint64_t histogram[STEPS], slowest;

static void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("mqtt_load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(2);
}

static uint64_t read_clock(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* -- latencies: 64 steps per power of two, so within 2 % of the truth in bounded memory -------------------------- */

static unsigned step_of(uint64_t ns) {
    if (ns < SUBSTEPS) return (unsigned)ns;
    unsigned shift = 57u - (unsigned)__builtin_clzll(ns);
    unsigned step = shift * SUBSTEPS + (unsigned)(ns >> shift);
    return step < STEPS ? step : STEPS - 1;
}

static double step_value(unsigned step) { /* the step's middle, ns */
    if (step < 2 * SUBSTEPS) return step;
    unsigned shift = step / SUBSTEPS - 1;
    return ((double)(step - shift * SUBSTEPS) + 0.5) * (double)(1ull << shift);
}

static void note_latency(uint64_t ns) {
    histogram[step_of(ns)]++;
    if (ns > slowest) slowest = ns;
}

static double percentile(double part) { /* microseconds */
    uint64_t total = 0, below = 0;
    for (unsigned i = 0; i < STEPS; i++) total += histogram[i];
    for (unsigned i = 0; i < STEPS; i++) {
        below += histogram[i];
        if (total && (double)below >= part * (double)total) return step_value(i) / 1e3;
    }
    return 0;
}

/* -- the broker's processes, given as PID,PID,... ------------------------------------------------------------------ */

static double broker_cpu(const char *pids) { /* seconds, user and system, with the children it has waited for */
    double seconds = 0;
    char path[64], line[2048];
    for (const char *p = pids; *p; p += strcspn(p, ","), p += *p == ',') {
        snprintf(path, sizeof path, "/proc/%ld/stat", strtol(p, NULL, 10));
        FILE *file = fopen(path, "r");
        if (!file || !fgets(line, sizeof line, file)) fail("cannot read %s", path);
        fclose(file);
        char *at = strrchr(line, ')'); /* the name before it may hold anything */
        unsigned long user, system;
        long children_user, children_system;
        if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &user, &system,
                          &children_user, &children_system) != 4)
            fail("%s reads otherwise than expected", path);
        seconds += (double)(user + system) + (double)(children_user + children_system);
    }
    return seconds / (double)sysconf(_SC_CLK_TCK);
}

static long broker_memory(const char *pids) { /* resident bytes; smaps_rollup is exact where statm lags behind */
    long bytes = 0;
    char path[64], line[256];
    for (const char *p = pids; *p; p += strcspn(p, ","), p += *p == ',') {
        snprintf(path, sizeof path, "/proc/%ld/smaps_rollup", strtol(p, NULL, 10));
        FILE *file = fopen(path, "r");
        if (!file) fail("cannot read %s", path);
        long kilobytes = 0;
        while (fgets(line, sizeof line, file))
            if (sscanf(line, "Rss: %ld kB", &kilobytes) == 1) break;
        fclose(file);
        bytes += kilobytes * 1024;
    }
    return bytes;
}

#endif

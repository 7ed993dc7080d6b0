/* measure [options]: times the candidates that are linked in. */
#include "measure.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "measure: times the kernels that this program holds, one line of JSON each\n"
    "  --threads N       threads of a kernel (all cores)\n"
    "  --repeats N       timed calls of a kernel, at most (20)\n"
    "  --limit SECONDS   a call that takes longer ends a kernel's measurement (none)\n"
    "  --timeout SECONDS of one kernel, all in all; then it is killed (10)\n"
    "  --budget SECONDS  of timed calls, once there are 3 (0.3)\n"
    "  --interleaved     the kernels of a group run in turn, call by call\n"
    "  --output FILE     append there, and go on behind what it has (standard output)\n";

static _Noreturn void refuse(const char *option, const char *value) {
  fprintf(stderr, "measure: can't take %s %s\n%s", option, value ? value : "", usage);
  exit(2);
}

static int64_t parse_ns(const char *option, const char *text) {
  char *end = NULL;
  const double seconds = text ? strtod(text, &end) : -1;
  if (!text || end == text || *end || !(seconds >= 0)) refuse(option, text);
  return seconds < 9e9 ? (int64_t)(seconds * 1e9) : INT64_MAX;
}

static int32_t parse_count(const char *option, const char *text, int32_t most) {
  char *end = NULL;
  const long value = text ? strtol(text, &end, 10) : 0;
  if (!text || end == text || *end || value < 1 || value > most) refuse(option, text);
  return (int32_t)value;
}

static MeasureOptions parse(int count, char **words) {
  MeasureOptions options = {
      .threads = athanor_usable_cores(),
      .repeats = 20,
      .limit_ns = INT64_MAX,
      .timeout_ns = (int64_t)10 * 1000000000,
      .budget_ns = (int64_t)300 * 1000000,
  };
  for (int i = 1; i < count; i++) {
    const char *option = words[i];
    if (!strcmp(option, "--help")) {
      fputs(usage, stdout);
      exit(0);
    }
    if (!strcmp(option, "--interleaved")) {
      options.interleaved = true;
      continue;
    }
    const char *value = i + 1 < count ? words[++i] : NULL;
    if (!strcmp(option, "--threads")) options.threads = parse_count(option, value, 4096);
    else if (!strcmp(option, "--repeats"))
      options.repeats = parse_count(option, value, MEASURE_MAX_REPEATS);
    else if (!strcmp(option, "--limit")) options.limit_ns = parse_ns(option, value);
    else if (!strcmp(option, "--timeout")) options.timeout_ns = parse_ns(option, value);
    else if (!strcmp(option, "--budget")) options.budget_ns = parse_ns(option, value);
    else if (!strcmp(option, "--output") && value) options.output = value;
    else refuse(option, value);
  }
  return options;
}

/* Whether the processor has what the kernels use; else a sentence on stderr. */
static bool has_features(void) {
  char names[1024];
  snprintf(names, sizeof names, "%s", measure_cpu_features);
  for (char *rest, *name = strtok_r(names, " ", &rest); name; name = strtok_r(NULL, " ", &rest))
    if (!ath_cpu_has(name)) {
      fprintf(stderr, "measure: these kernels use %s, which this processor has not: make the "
                      "bundle with the --target of this machine\n", name);
      return false;
    }
  return true;
}

int main(int count, char **words) {
  MeasureOptions options = parse(count, words);
  if (!has_features()) return 3;
  if (measure_device) options.threads = 1;
  signal(SIGPIPE, SIG_IGN); /* of a child that has ended; read tells */
  uint64_t evict_bytes = 0;
  for (int32_t i = 0; i < measure_num_candidates; i++)
    if (measure_candidates[i].evict_bytes > evict_bytes)
      evict_bytes = measure_candidates[i].evict_bytes;
  if (!measure_device && !measure_make_other_memory(evict_bytes)) {
    fprintf(stderr, "measure: no memory to empty the caches with\n");
    return 1;
  }
  const int32_t done = measure_open_results(&options);
  if (done < 0) return 1;
  MeasureResult *results = calloc((size_t)measure_num_candidates + 1, sizeof *results);
  if (!results) return 1;
  for (int32_t first = done, end; first < measure_num_candidates; first = end) {
    end = measure_group_end(first, &options);
    measure_group(first, end - first, &options, results);
    for (int32_t i = first; i < end; i++) measure_write_result(i, &results[i - first]);
  }
  free(results);
  return 0;
}

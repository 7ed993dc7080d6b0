/* Results: one line of JSON a candidate, on disk before the next one is measured. */
#include "measure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static FILE *output;

static void write_text(const char *text) {
  fputc('"', output);
  for (; *text; text++) {
    if (*text == '"' || *text == '\\') fputc('\\', output);
    if ((unsigned char)*text >= ' ') fputc(*text, output);
  }
  fputc('"', output);
}

/* Whoever read the results may be gone, or the disk full: no use in going on. */
static void flush(void) {
  if (!fflush(output) && (output == stdout || !fsync(fileno(output)))) return;
  fprintf(stderr, "measure: can't write the results: %s\n", strerror(errno));
  exit(1);
}

/* The processor's name; on boards, whose processors have none, the board's. tuning/context.py has the
 * same rule. */
static void processor_name(char *name, size_t size, const struct utsname *machine) {
  char line[256];
  snprintf(name, size, "%s", machine->machine);
  FILE *board = fopen("/proc/device-tree/model", "re");
  if (board && fgets(line, sizeof line, board) && *line) snprintf(name, size, "%s", line);
  if (board) fclose(board);
  FILE *file = fopen("/proc/cpuinfo", "re");
  while (file && fgets(line, sizeof line, file)) {
    const char *value = strchr(line, ':');
    if (!value || strncmp(line, "model name", 10)) continue;
    line[strcspn(line, "\n")] = 0;
    snprintf(name, size, "%s", value + 2);
    break;
  }
  if (file) fclose(file);
}

/* False where there is no device, with a sentence on stderr. */
static bool write_head(const MeasureOptions *options) {
  char name[200];
  struct utsname machine = {.machine = "unknown"};
  uname(&machine);
  if (!measure_device) {
    processor_name(name, sizeof name, &machine);
  } else if (!measure_device->name(name, sizeof name)) {
    fprintf(stderr, "measure: %s\n", athanor_last_error());
    return false;
  }
  fputs("{\"athanor_measure\": 1, \"bundle\": ", output);
  write_text(measure_bundle);
  fprintf(output, ", \"threads\": %d, \"cores\": %d, \"cpu\": ", options->threads,
          athanor_usable_cores());
  write_text(name);
  fputs(", \"machine\": ", output);
  write_text(machine.machine);
  fputs("}\n", output);
  flush();
  return true;
}

/* Candidates of whole groups in the file; what follows them is cut off, for a line that a power cut
 * has left half written is no result. Negative: the file is of another bundle. */
static int32_t read_done(const char *path, const MeasureOptions *options) {
  int32_t lines = -1, done = -1, end = 0; /* end: of the group that is being read */
  char *line = NULL, head[128];
  size_t capacity = 0;
  ssize_t length;
  long long at = 0, whole = 0;
  snprintf(head, sizeof head, "{\"athanor_measure\": 1, \"bundle\": \"%s\"", measure_bundle);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  while ((length = getline(&line, &capacity, file)) > 0 && line[length - 1] == '\n') {
    if (++lines == 0 && strncmp(line, head, strlen(head))) break;
    at += length;
    if (lines < end) continue;
    done = lines;
    whole = at;
    if (lines < measure_num_candidates) end = measure_group_end(lines, options);
  }
  if (lines < 0) done = 0; /* not even the first line */
  free(line);
  fclose(file);
  if (done >= 0 && truncate(path, whole)) done = -1;
  return done;
}

int32_t measure_open_results(const MeasureOptions *options) {
  int32_t done = 0;
  output = stdout;
  if (options->output) {
    done = read_done(options->output, options);
    if (done < 0) {
      fprintf(stderr, "%s holds results of another bundle: give another file\n", options->output);
      return -1;
    }
    output = fopen(options->output, "ae");
    if (!output) {
      fprintf(stderr, "can't write %s\n", options->output);
      return -1;
    }
    fseek(output, 0, SEEK_END);
  }
  if ((output == stdout || ftell(output) == 0) && !write_head(options)) return -1;
  return done;
}

void measure_write_result(int32_t number, const MeasureResult *result) {
  fprintf(output, "{\"candidate\": %d, ", number);
  if (result->error) {
    fprintf(output, "\"error\": \"%s\", \"sentence\": ", result->error);
    write_text(result->sentence);
  } else {
    fputs("\"seconds\": [", output);
    for (int32_t i = 0; i < result->count; i++)
      fprintf(output, "%s%.9f", i ? ", " : "", (double)result->ns[i] * 1e-9);
    fputc(']', output);
  }
  fputs("}\n", output);
  flush();
}

/* Calls of the C API that Python does not make; built with and without sanitizers.
 *
 *   driver m.so FOLDER     FOLDER: an empty one, to write to
 *
 * Prints the checks that fail, and exits with their number. m.so is the artifact of model.c. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

#define CHECK(condition)                                                                   \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      failures++;                                                                          \
      printf("line %d: %s; last error: %s\n", __LINE__, #condition, athanor_last_error()); \
    }                                                                                      \
  } while (0)
#define CHECK_ERROR(call, wanted, text)        \
  do {                                         \
    CHECK((call) == (wanted));                 \
    CHECK(strstr(athanor_last_error(), text)); \
  } while (0)

#define MAX_BATCH 64
typedef struct {
  float x[MAX_BATCH * 4];
  int32_t command;
  int64_t x_shape[2], command_shape[1];
  DLTensor inputs[3], outputs[5];
} Feed;

static void fill(Feed *feed, int64_t batch, int32_t command) {
  memset(feed, 0, sizeof *feed);
  for (int i = 0; i < MAX_BATCH * 4; i++) feed->x[i] = (float)(i % 7) - 3;
  feed->command = command;
  feed->x_shape[0] = batch;
  feed->x_shape[1] = 4;
  feed->command_shape[0] = 1;
  const DLTensor x = {feed->x, {kDLCPU, 0}, 2, {kDLFloat, 32, 1}, feed->x_shape, NULL, 0};
  const DLTensor number = {&feed->command,      {kDLCPU, 0}, 1, {kDLInt, 32, 1},
                           feed->command_shape, NULL,        0};
  feed->inputs[0] = feed->inputs[1] = x;
  feed->inputs[2] = number;
}

static AthanorStatus run(AthanorSession *session, Feed *feed) {
  return athanor_session_run(session, feed->inputs, 3, feed->outputs, 5);
}

static bool is_right(const Feed *feed) {
  const int64_t batch = feed->x_shape[0];
  const float *sum = feed->outputs[0].data, *rows = feed->outputs[1].data;
  const float *positive = feed->outputs[2].data;
  int64_t above = 0;
  bool right = true;
  for (int64_t i = 0; i < batch; i++) {
    for (int k = 0; k < 4; k++) {
      const float x = feed->x[4 * i + k];
      right = right && sum[4 * i + k] == x + 10.0f * (float)(k + 1);
      if (x > 0) right = right && positive[above++] == x;
    }
    right = right && rows[i] == sum[4 * i] + sum[4 * i + 1] + sum[4 * i + 2] + sum[4 * i + 3];
  }
  return right && feed->outputs[2].shape[0] == above && feed->outputs[4].shape[0] == 2 * batch;
}

static AthanorSession *make_session(AthanorModel *model, int32_t threads, int32_t spin_us) {
  AthanorSession *session = NULL;
  const AthanorSessionOptions options = {
      .size_bytes = sizeof options, .threads = threads, .spin_us = spin_us};
  CHECK(athanor_session_create(model, &options, &session) == ATHANOR_OK);
  return session;
}

static void test_misuse(AthanorModel *model) {
  AthanorModel *none = NULL;
  AthanorSession *session = NULL;
  AthanorOpenOptions options = {sizeof options, 0, ATHANOR_VERIFY_DEFAULT};
  AthanorSessionOptions session_options = {.size_bytes = sizeof session_options, .threads = -1};
  athanor_close(NULL);
  athanor_session_close(NULL);
  CHECK_ERROR(athanor_open(NULL, NULL, &none), ATHANOR_ERROR_ARGUMENT, "path or model is NULL");
  CHECK_ERROR(athanor_open("m.so", NULL, NULL), ATHANOR_ERROR_ARGUMENT, "path or model is NULL");
  CHECK_ERROR(athanor_open("/no/m.so", NULL, &none), ATHANOR_ERROR_FILE, "can't open /no/m.so");
  CHECK_ERROR(athanor_open("/tmp", NULL, &none), ATHANOR_ERROR_FILE, "no regular file");
  options.flags = 8;
  CHECK_ERROR(athanor_open("m.so", &options, &none), ATHANOR_ERROR_ARGUMENT, "flags=8");
  options = (AthanorOpenOptions){0};
  CHECK_ERROR(athanor_open("m.so", &options, &none), ATHANOR_ERROR_ARGUMENT, "size_bytes=0");
  CHECK(none == NULL);
  CHECK(athanor_metadata_json(NULL) == NULL);
  CHECK(athanor_num_inputs(NULL) == 0 && athanor_num_outputs(NULL) == 0);
  CHECK(athanor_input(model, -1) == NULL && athanor_input(model, 3) == NULL);
  CHECK(athanor_output(model, -1) == NULL && athanor_output(model, 5) == NULL);
  CHECK(athanor_input(NULL, 0) == NULL);
  CHECK_ERROR(athanor_session_create(NULL, NULL, &session), ATHANOR_ERROR_ARGUMENT, "NULL");
  CHECK_ERROR(athanor_session_create(model, NULL, NULL), ATHANOR_ERROR_ARGUMENT, "NULL");
  CHECK_ERROR(athanor_session_create(model, &session_options, &session), ATHANOR_ERROR_ARGUMENT,
              "threads is -1");
  CHECK_ERROR(athanor_session_run(NULL, NULL, 0, NULL, 0), ATHANOR_ERROR_ARGUMENT, "NULL");
}

static void test_inspect(const char *path) {
  AthanorModel *model = NULL;
  AthanorSession *session = NULL;
  const AthanorOpenOptions options = {sizeof options, ATHANOR_OPEN_INSPECT_ONLY,
                                      ATHANOR_VERIFY_ALWAYS};
  CHECK(athanor_open(path, &options, &model) == ATHANOR_OK);
  CHECK(strstr(athanor_metadata_json(model), "by hand"));
  CHECK(athanor_num_inputs(model) == 0 && athanor_output(model, 0) == NULL);
  CHECK_ERROR(athanor_session_create(model, NULL, &session), ATHANOR_ERROR_ARGUMENT,
              "inspection only");
  athanor_close(model);
}

static void test_specs(AthanorModel *model) {
  const AthanorTensorSpec *x = athanor_input(model, 0), *positive = athanor_output(model, 2);
  CHECK(athanor_num_inputs(model) == 3 && athanor_num_outputs(model) == 5);
  CHECK(!strcmp(x->name, "x") && x->ndim == 2 && x->shape[0] == -1 && x->shape[1] == 4);
  CHECK(!strcmp(x->dim_names[0], "batch") && x->dim_names[1] == NULL);
  CHECK(x->dtype.code == kDLFloat && x->dtype.bits == 32 && x->dtype.lanes == 1);
  CHECK(positive->shape[0] == -1 && positive->dim_names[0] == NULL);
}

static void test_inputs(AthanorModel *model) {
  AthanorSession *session = make_session(model, 1, 0);
  Feed feed;
  fill(&feed, 3, 0);
  CHECK_ERROR(athanor_session_run(session, feed.inputs, 2, feed.outputs, 5), ATHANOR_ERROR_INPUT,
              "2 inputs given, expected 3");
  CHECK_ERROR(athanor_session_run(session, feed.inputs, 3, feed.outputs, 1), ATHANOR_ERROR_INPUT,
              "1 outputs given, expected 5");
  CHECK_ERROR(athanor_session_run(session, NULL, 3, feed.outputs, 5), ATHANOR_ERROR_ARGUMENT,
              "NULL");
  feed.inputs[0].dtype.bits = 64;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT,
              "input 'x' has type float64, expected float32");
  feed.inputs[0].dtype = (DLDataType){kDLBfloat, 16, 4};
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "has type bfloat16x4");
  fill(&feed, 3, 0);
  feed.inputs[0].device.device_type = (DLDeviceType)2;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "on device type 2, expected the CPU");
  fill(&feed, 3, 0);
  feed.x_shape[0] = -3;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "shape (-3, 4), expected (batch, 4)");
  feed.x_shape[0] = INT64_MAX;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "is larger than any memory");
  fill(&feed, 3, 0);
  feed.inputs[0].ndim = -1;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "-1 dimensions and no shape");
  fill(&feed, 3, 0);
  feed.inputs[0].shape = NULL;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "2 dimensions and no shape");
  fill(&feed, 3, 0);
  feed.inputs[0].data = NULL;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "input 'x' has no data");
  fill(&feed, 3, 0);
  feed.inputs[0].byte_offset = 2;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "not aligned to its element of 4 bytes");
  fill(&feed, 3, 0);
  int64_t other[] = {2, 4};
  feed.inputs[1].shape = other;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT,
              "input 'again' has shape (2, 4), expected (batch, 4) with batch = 3 as in input 'x'");
  fill(&feed, 3, 0);
  int64_t strides[] = {1, 3}, dense[] = {4, 1};
  feed.inputs[0].strides = strides;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "'x' is not dense and row-major");
  feed.inputs[0].strides = dense;
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  /* One row: whatever its stride, it is dense. byte_offset: the second row is the first. */
  fill(&feed, 1, 0);
  int64_t wild[] = {999, 1};
  feed.inputs[0].strides = wild;
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  fill(&feed, 2, 0);
  feed.inputs[0].byte_offset = 16;
  CHECK(run(session, &feed) == ATHANOR_OK);
  CHECK(((float *)feed.outputs[0].data)[0] == feed.x[4] + 10);
  /* No element, no data needed; and the session still serves. */
  fill(&feed, 0, 0);
  feed.inputs[0].data = feed.inputs[1].data = NULL;
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed) && feed.outputs[0].shape[0] == 0);
  athanor_session_close(session);
}

static void test_outputs(AthanorModel *model) {
  AthanorSession *session = make_session(model, 1, 0);
  Feed feed;
  fill(&feed, 5, 0);
  CHECK(athanor_session_output_shapes(session, feed.inputs, 3, feed.outputs, 5) == ATHANOR_OK);
  CHECK(feed.outputs[0].ndim == 2 && feed.outputs[0].shape[0] == 5 &&
        feed.outputs[0].shape[1] == 4);
  CHECK(feed.outputs[2].shape[0] == -1 && feed.outputs[4].shape[0] == 10);
  CHECK(feed.outputs[0].data == NULL && feed.outputs[0].dtype.bits == 32);
  float sum[20] = {0}, narrow[20];
  int64_t shape[] = {5, 4}, wrong[] = {4, 5};
  fill(&feed, 5, 0);
  feed.outputs[0] = feed.inputs[0];
  feed.outputs[0].data = sum;
  feed.outputs[0].shape = shape;
  CHECK(run(session, &feed) == ATHANOR_OK && feed.outputs[0].data == sum && is_right(&feed));
  fill(&feed, 5, 0);
  feed.outputs[0] = feed.inputs[0];
  feed.outputs[0].shape = wrong;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT,
              "output 'sum' has shape (4, 5), expected (5, 4)");
  feed.outputs[0].shape = shape;
  feed.outputs[0].dtype.code = kDLInt;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "output 'sum' has type int32");
  fill(&feed, 5, 0);
  feed.outputs[2] = feed.inputs[0];
  feed.outputs[2].data = narrow;
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_INPUT, "'positive' has a shape that depends on");
  /* Larger and smaller again: buffers grow, shapes follow. */
  for (int64_t batch = 1; batch < MAX_BATCH; batch += 9) {
    fill(&feed, batch % 2 ? batch : MAX_BATCH - batch, 0);
    CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  }
  athanor_session_close(session);
}

static void test_errors_of_the_model(AthanorModel *model, int32_t threads) {
  AthanorSession *session = make_session(model, threads, 0);
  Feed feed;
  fill(&feed, 3, 1);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "division by zero in node 'layer1/div'");
  fill(&feed, 3, 2);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "a kernel returned -1");
  fill(&feed, 3, 3);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "the last task failed");
  fill(&feed, 3, 4);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "did not make output 'positive'");
  fill(&feed, 3, 5);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "out of order");
  fill(&feed, 3, 6);
  CHECK(run(session, &feed) == ATHANOR_OK && ath_workspace_depth() == 0);
  fill(&feed, 3, 0);
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  athanor_session_close(session);
}

typedef struct {
  AthanorModel *model;
  const char *path;
  int32_t threads, spin_us;
  int64_t batch;
} Work;

static void *work(void *argument) {
  const Work *w = argument;
  AthanorSession *session = make_session(w->model, w->threads, w->spin_us);
  for (int i = 0; i < 300; i++) {
    Feed feed;
    fill(&feed, w->batch + i % 3, i % 50 == 49 ? 3 : 0);
    if (feed.command)
      CHECK(run(session, &feed) == ATHANOR_ERROR_RUN);
    else
      CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
    const int32_t *tasks = feed.outputs[3].data;
    if (!feed.command) CHECK(tasks[0] == w->threads && tasks[1] == 1);
    if (i % 10 == 0) { /* the same code, loaded and unloaded beside running sessions */
      AthanorModel *again = NULL;
      CHECK(athanor_open(w->path, NULL, &again) == ATHANOR_OK);
      athanor_close(again);
    }
  }
  athanor_session_close(session);
  return NULL;
}

static void test_threads(AthanorModel *model, const char *path) {
  const Work works[] = {{model, path, 3, 0, 5},
                        {model, path, 2, -1, 9},
                        {model, path, 1, 0, 1},
                        {model, path, 4, 5, 17}};
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, work, (void *)&works[i]);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static void backwards(void *user, int32_t num_tasks, void (*task)(int32_t, void *),
                      void *argument) {
  *(int *)user += 1;
  for (int32_t i = num_tasks - 1; i >= 0; i--) task(i, argument);
}

static void lazy(void *user, int32_t num_tasks, void (*task)(int32_t, void *), void *argument) {
  (void)user;
  for (int32_t i = 1; i < num_tasks; i++) task(i, argument);
}

static void test_parallel_for(AthanorModel *model) {
  AthanorSession *session = NULL;
  Feed feed;
  int calls = 0;
  AthanorSessionOptions options = {.size_bytes = sizeof options,
                                   .threads = 3,
                                   .parallel_for = backwards,
                                   .parallel_for_user = &calls};
  CHECK(athanor_session_create(model, &options, &session) == ATHANOR_OK);
  fill(&feed, 7, 0);
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed) && calls == 2);
  fill(&feed, 7, 3);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "the last task failed");
  athanor_session_close(session);
  options.parallel_for = lazy;
  CHECK(athanor_session_create(model, &options, &session) == ATHANOR_OK);
  fill(&feed, 7, 0);
  CHECK_ERROR(run(session, &feed), ATHANOR_ERROR_RUN, "parallel_for ran 2 of 3 tasks");
  athanor_session_close(session);
}

static void test_fork(AthanorModel *model) {
#if !defined(__SANITIZE_THREAD__) /* which can't follow threads that a forked child makes */
  AthanorSession *session = make_session(model, 3, 0);
  Feed feed;
  fill(&feed, 5, 0);
  CHECK(run(session, &feed) == ATHANOR_OK);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20); /* a deadlock is a failure */
    for (int i = 0; i < 20; i++) {
      fill(&feed, 5, 0);
      if (run(session, &feed) || !is_right(&feed)) _exit(1);
    }
    athanor_session_close(session);
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  fill(&feed, 5, 0);
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  athanor_session_close(session);
#else
  (void)model;
#endif
}

static void test_lifetimes(const char *path) {
  AthanorModel *first = NULL, *second = NULL;
  Feed feed;
  fill(&feed, 2, 0);
  CHECK(athanor_open(path, NULL, &first) == ATHANOR_OK);
  CHECK(athanor_open(path, NULL, &second) == ATHANOR_OK);
  AthanorSession *session = make_session(first, 1, 0);
  athanor_close(first); /* the session keeps it */
  athanor_close(second);
  CHECK(run(session, &feed) == ATHANOR_OK && is_right(&feed));
  athanor_session_close(session);
}

static void test_sha256(void) {
  static const uint8_t abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
  uint8_t data[300], digest[32], other[32];
  ath_sha256((const uint8_t *)"abc", 3, digest);
  CHECK(!memcmp(digest, abc, 32)); /* FIPS 180-4, example B.1 */
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7 + i / 3);
  for (size_t size = 0; size <= sizeof data; size++) {
    ath_sha256(data, size, digest);
    ath_sha256_with(ath_sha256_blocks_portable, data, size, other);
    CHECK(!memcmp(digest, other, 32));
  }
}

static void write_file(const char *folder, const char *name, const char *text) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(path, 0755);
    *slash = '/';
  }
  FILE *file = fopen(path, "w");
  CHECK(file);
  fputs(text, file);
  fclose(file);
}

static int32_t cores(const char *folder, const char *membership) {
  char path[512];
  write_file(folder, "cgroup", membership);
  snprintf(path, sizeof path, "%s/cgroup", folder);
  return ath_cgroup_cores(path, folder);
}

static void test_cgroups(const char *folder) {
  CHECK(athanor_usable_cores() >= 1);
  CHECK(ath_cgroup_cores("/no/such/file", folder) == 0);
  write_file(folder, "a/b/cpu.max", "max 100000\n");
  CHECK(cores(folder, "0::/a/b\n") == 0);
  write_file(folder, "a/cpu.max", "250000 100000\n"); /* of an ancestor, rounded up */
  CHECK(cores(folder, "0::/a/b\n") == 3);
  write_file(folder, "a/b/cpu.max", "50000 100000\n");
  CHECK(cores(folder, "0::/a/b\n") == 1);
  CHECK(cores(folder, "0::/\n") == 0);
  write_file(folder, "cpu.max", "400000 100000\n"); /* a container sees its own group as root */
  CHECK(cores(folder, "0::/docker/not/mounted\n") == 4);
  write_file(folder, "cpu.max", "max 100000\n");
  write_file(folder, "cpu/c/cpu.cfs_quota_us", "-1\n");
  write_file(folder, "cpu/c/cpu.cfs_period_us", "100000\n");
  CHECK(cores(folder, "5:cpu,cpuacct:/c\n0::/\n") == 0);
  write_file(folder, "cpu/c/cpu.cfs_quota_us", "150000\n");
  CHECK(cores(folder, "5:cpu,cpuacct:/c\n0::/\n") == 2);
  CHECK(cores(folder, "5:cpuacct:/c\n3:cpuset:/c\n") == 0);
}

int main(int argc, char **argv) {
  AthanorModel *model = NULL;
  if (argc != 3) return 2;
  if (athanor_open(argv[1], NULL, &model)) {
    printf("%s\n", athanor_last_error());
    return 1;
  }
  test_misuse(model);
  test_inspect(argv[1]);
  test_specs(model);
  test_inputs(model);
  test_outputs(model);
  test_errors_of_the_model(model, 1);
  test_errors_of_the_model(model, 3);
  test_threads(model, argv[1]);
  test_parallel_for(model);
  test_fork(model);
  test_lifetimes(argv[1]);
  test_sha256();
  test_cgroups(argv[2]);
  athanor_close(model);
  return failures;
}

/* What TVM's RPC server loads and calls: a function of TVM's calling convention that runs the
 * measuring program beside it. The program is no part of the library, for it forks, and the server
 * has threads; and so a kernel's crash is not the server's.
 *
 * The server's folder holds: measure, options (its words, one a line), and afterwards results.jsonl
 * and messages. The function returns the program's exit code. */
#define _GNU_SOURCE

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define MAX_WORDS 64

/* TVMFFIAny of tvm/ffi/c_api.h, and the type index of an integer. */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  int64_t value;
} Any;
enum { ANY_INT = 1 };

static int read_words(const char *path, char *text, size_t size, char **words) {
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  const size_t length = fread(text, 1, size - 1, file);
  fclose(file);
  text[length] = 0;
  int count = 0;
  for (char *rest, *word = strtok_r(text, "\n", &rest); word && count < MAX_WORDS;
       word = strtok_r(NULL, "\n", &rest))
    words[count++] = word;
  return count;
}

__attribute__((visibility("default"))) int __tvm_ffi_athanor_measure(void *self,
                                                                     const Any *arguments,
                                                                     int32_t count, Any *result) {
  (void)self, (void)arguments, (void)count;
  Dl_info here;
  char folder[PATH_MAX], text[4096], *words[MAX_WORDS + 4] = {"./measure"};
  int status = 0;
  *result = (Any){.type_index = ANY_INT, .value = -1};
  if (!dladdr((void *)__tvm_ffi_athanor_measure, &here)) return 0;
  snprintf(folder, sizeof folder, "%s", here.dli_fname);
  char *end = strrchr(folder, '/');
  if (end) *end = 0;
  if (end && chdir(folder)) return 0;
  int words_count = 1 + read_words("options", text, sizeof text, words + 1);
  words[words_count++] = "--output";
  words[words_count++] = "results.jsonl";
  words[words_count] = NULL;
  chmod("measure", 0700);
  /* The server may reap children by ignoring them; ours has to be waited for. */
  signal(SIGCHLD, SIG_DFL);
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a session that its server ends takes the program along */
    const int messages = open("messages", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (messages >= 0) dup2(messages, 2);
    execv("measure", words);
    _exit(126);
  }
  if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
    result->value = WEXITSTATUS(status);
  return 0;
}

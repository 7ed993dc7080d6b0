/* How many cores this process may use: affinity, then cgroup quotas of version 2 and 1. */
#include "internal.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int32_t affinity_cores(void) {
  /* The kernel refuses a mask shorter than its own; start with glibc's 1,024 cores. */
  for (int cores = CPU_SETSIZE; cores <= 1 << 20; cores *= 2) {
    cpu_set_t *set = CPU_ALLOC(cores);
    if (!set) break;
    const size_t size = CPU_ALLOC_SIZE(cores);
    const int count = sched_getaffinity(0, size, set) ? 0 : CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (count > 0) return count;
  }
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (int32_t)online : 1;
}

static bool read_text(const char *path, char *text, size_t size) {
  FILE *file = fopen(path, "re");
  if (!file) return false;
  const size_t count = fread(text, 1, size - 1, file);
  fclose(file);
  text[count] = 0;
  return count > 0;
}

/* Cores that the limit of one folder allows, rounded up; 0 where it sets none. */
static int32_t folder_cores(const char *folder, bool version2) {
  char path[PATH_MAX + 32], text[64];
  long long quota = -1, period = 100000;
  snprintf(path, sizeof path, "%s/%s", folder, version2 ? "cpu.max" : "cpu.cfs_quota_us");
  if (!read_text(path, text, sizeof text)) return 0;
  /* Version 2 writes "max 100000" where there is no limit, version 1 writes -1. */
  if (sscanf(text, version2 ? "%lld %lld" : "%lld", &quota, &period) < 1) return 0;
  if (!version2) {
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (read_text(path, text, sizeof text)) sscanf(text, "%lld", &period);
  }
  if (quota <= 0 || period <= 0) return 0;
  const long long cores = (quota + period - 1) / period;
  return cores < INT32_MAX ? (int32_t)cores : 0;
}

/* The least limit of a group and all its ancestors. In a container the path may name a folder that
 * is not mounted; then only the root is there, which is the container's own group. */
static int32_t group_cores(const char *root, const char *group, bool version2) {
  char folder[PATH_MAX];
  int32_t least = 0;
  if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder) return 0;
  for (;;) {
    const int32_t cores = folder_cores(folder, version2);
    if (cores && (!least || cores < least)) least = cores;
    char *slash = strrchr(folder, '/');
    if (!slash || (size_t)(slash - folder) < strlen(root)) return least;
    *slash = 0;
  }
}

int32_t ath_cgroup_cores(const char *membership_path, const char *root) {
  char line[PATH_MAX + 64], folder[PATH_MAX];
  int32_t least = 0;
  FILE *file = fopen(membership_path, "re");
  if (!file) return 0;
  /* Lines are "id:controllers:path"; version 2 has no controllers. */
  while (fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = 0;
    controllers++;
    const bool version2 = !*controllers;
    bool is_cpu = version2;
    for (char *rest, *one = strtok_r(controllers, ",", &rest); one;
         one = strtok_r(NULL, ",", &rest))
      is_cpu = is_cpu || !strcmp(one, "cpu");
    if (!is_cpu) continue;
    snprintf(folder, sizeof folder, "%s%s", root, version2 ? "" : "/cpu");
    const int32_t cores = group_cores(folder, group, version2);
    if (cores && (!least || cores < least)) least = cores;
  }
  fclose(file);
  return least;
}

int32_t athanor_usable_cores(void) {
  const int32_t cores = affinity_cores();
  const int32_t limit = ath_cgroup_cores("/proc/self/cgroup", "/sys/fs/cgroup");
  return limit && limit < cores ? limit : cores;
}

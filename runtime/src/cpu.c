/* What this processor can do, by the names of /proc/cpuinfo. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* leaf, subleaf, register (0 eax, 1 ebx, 2 ecx, 3 edx), bit; and what the operating system must
 * save for it: bits of XCR0 (6: AVX, 0xe6: AVX-512, 0x60000: AMX). Intel SDM volume 2, "CPUID". */
typedef struct {
  const char *name;
  uint32_t leaf, subleaf;
  uint8_t index, bit;
  uint32_t saved;
} Feature;

static const Feature features[] = {
    {"cx16", 1, 0, 2, 13, 0},
    {"pni", 1, 0, 2, 0, 0},
    {"ssse3", 1, 0, 2, 9, 0},
    {"sse4_1", 1, 0, 2, 19, 0},
    {"sse4_2", 1, 0, 2, 20, 0},
    {"movbe", 1, 0, 2, 22, 0},
    {"popcnt", 1, 0, 2, 23, 0},
    {"aes", 1, 0, 2, 25, 0},
    {"pclmulqdq", 1, 0, 2, 1, 0},
    {"fma", 1, 0, 2, 12, 6},
    {"avx", 1, 0, 2, 28, 6},
    {"f16c", 1, 0, 2, 29, 6},
    {"lahf_lm", 0x80000001, 0, 2, 0, 0},
    {"abm", 0x80000001, 0, 2, 5, 0},
    {"bmi1", 7, 0, 1, 3, 0},
    {"avx2", 7, 0, 1, 5, 6},
    {"bmi2", 7, 0, 1, 8, 0},
    {"sha_ni", 7, 0, 1, 29, 0},
    {"avx512f", 7, 0, 1, 16, 0xe6},
    {"avx512dq", 7, 0, 1, 17, 0xe6},
    {"avx512ifma", 7, 0, 1, 21, 0xe6},
    {"avx512cd", 7, 0, 1, 28, 0xe6},
    {"avx512bw", 7, 0, 1, 30, 0xe6},
    {"avx512vl", 7, 0, 1, 31, 0xe6},
    {"avx512vbmi", 7, 0, 2, 1, 0xe6},
    {"avx512_vbmi2", 7, 0, 2, 6, 0xe6},
    {"avx512_vnni", 7, 0, 2, 11, 0xe6},
    {"avx512_bitalg", 7, 0, 2, 12, 0xe6},
    {"avx512_vpopcntdq", 7, 0, 2, 14, 0xe6},
    {"avx512_fp16", 7, 0, 3, 23, 0xe6},
    {"amx_bf16", 7, 0, 3, 22, 0x60000},
    {"amx_tile", 7, 0, 3, 24, 0x60000},
    {"amx_int8", 7, 0, 3, 25, 0x60000},
    {"avx_vnni", 7, 1, 0, 4, 6},
    {"avx512_bf16", 7, 1, 0, 5, 0xe6},
};

static uint32_t saved_by_system(void) {
  uint32_t eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return 0; /* OSXSAVE */
  __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

/* 1: has it, 0: lacks it, -1: not in the table. */
static int has_by_cpuid(const char *name) {
  for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
    const Feature *f = &features[i];
    if (strcmp(f->name, name)) continue;
    uint32_t values[4];
    if (!__get_cpuid_count(f->leaf, f->subleaf, values, values + 1, values + 2, values + 3))
      return 0;
    return (values[f->index] >> f->bit & 1) && (saved_by_system() & f->saved) == f->saved;
  }
  return -1;
}

const char *ath_cpu_family(void) { return "x86_64"; }
#elif defined(__aarch64__)
#include <sys/auxv.h>

/* Bits of AT_HWCAP, and of AT_HWCAP2 where `second`. Linux, "ARM64 ELF hwcaps". The kernel's own
 * word: under an emulator, /proc/cpuinfo is that of the machine below. */
typedef struct {
  const char *name;
  uint8_t bit, second;
} Feature;

static const Feature features[] = {
    {"fp", 0, 0},        {"asimd", 1, 0},     {"aes", 3, 0},      {"pmull", 4, 0},
    {"sha1", 5, 0},      {"sha2", 6, 0},      {"crc32", 7, 0},    {"atomics", 8, 0},
    {"fphp", 9, 0},      {"asimdhp", 10, 0},  {"asimdrdm", 12, 0}, {"asimddp", 20, 0},
    {"sve", 22, 0},      {"asimdfhm", 23, 0}, {"sve2", 1, 1},     {"svebf16", 12, 1},
    {"i8mm", 13, 1},     {"bf16", 14, 1},
};

static int has_by_cpuid(const char *name) {
  for (size_t i = 0; i < sizeof features / sizeof *features; i++)
    if (!strcmp(features[i].name, name))
      return getauxval(features[i].second ? AT_HWCAP2 : AT_HWCAP) >> features[i].bit & 1;
  return -1;
}

const char *ath_cpu_family(void) { return "aarch64"; }
#elif defined(__riscv) && __riscv_xlen == 64
#include <sys/auxv.h>

/* The extensions of one letter are the bits of AT_HWCAP, a the lowest. */
static int has_by_cpuid(const char *name) {
  if (name[0] < 'a' || name[0] > 'z' || name[1]) return -1;
  return getauxval(AT_HWCAP) >> (name[0] - 'a') & 1;
}

const char *ath_cpu_family(void) { return "riscv64"; }
#else
static int has_by_cpuid(const char *name) {
  (void)name;
  return -1;
}

const char *ath_cpu_family(void) { return "unknown"; }
#endif

/* Looks for the name in the first "flags" (x86) or "Features" (Arm) line. */
static bool listed_by_system(const char *name) {
  FILE *file = fopen("/proc/cpuinfo", "re");
  if (!file) return false;
  char word[64];
  bool inside = false, found = false;
  int length = 0;
  for (int c = getc(file); !found; c = getc(file)) {
    if (c != EOF && c != ' ' && c != '\t' && c != '\n' && c != ':') {
      if (length < (int)sizeof word - 1) word[length++] = (char)c;
      continue;
    }
    word[length] = 0;
    found = inside && length && !strcmp(word, name);
    if (c == ':') inside = !strcmp(word, "flags") || !strcmp(word, "Features");
    if (c == EOF || (c == '\n' && inside)) break;
    if (c != '\t' || inside) length = 0; /* "flags\t\t:" keeps its word until the colon */
  }
  fclose(file);
  return found;
}

bool ath_cpu_has(const char *feature) {
  const int known = has_by_cpuid(feature);
  return known >= 0 ? known : listed_by_system(feature);
}

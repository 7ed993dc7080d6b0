/* Is this file a whole, undamaged artifact for this machine? */
#include "internal.h"

#include <stdio.h>
#include <string.h>

/* Room between the ELF image and the weights: up to the largest page of any Linux. */
#define MAX_PADDING_BYTES 65536u

static void hex(const uint8_t digest[32], char text[65]) {
  for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

static AthanorStatus check_hash(const char *part, const char *path, const uint8_t *data,
                                uint64_t size_bytes, const uint8_t expected[32]) {
  uint8_t digest[32];
  char received_text[65], expected_text[65];
  ath_sha256(data, size_bytes, digest);
  if (!memcmp(digest, expected, 32)) return ATHANOR_OK;
  hex(digest, received_text);
  hex(expected, expected_text);
  return ath_fail(ATHANOR_ERROR_FORMAT, "%s of %s %s damaged: SHA-256 is %s, expected %s", part,
                  path, part[strlen(part) - 1] == 's' ? "are" : "is", received_text, expected_text);
}

/* Why a file does not end as an artifact does. */
static AthanorStatus no_footer(const char *path, const AthFile *file) {
  static const char elf[] = "\177ELF", symbol[] = ATHANOR_DESCRIPTOR_SYMBOL;
  if (file->size_bytes == 0)
    return ath_fail(ATHANOR_ERROR_FORMAT, "%s is no Athanor artifact: it is empty", path);
  const size_t start = file->size_bytes < 4 ? file->size_bytes : 4;
  if (memcmp(file->data, elf, start))
    return ath_fail(ATHANOR_ERROR_FORMAT, "%s is no Athanor artifact: it is no ELF file", path);
  /* The section headers end an ELF file: those of a whole one lie inside. */
  uint64_t headers = UINT64_MAX;
  if (file->size_bytes >= 64) memcpy(&headers, file->data + 40, 8);
  if (headers > file->size_bytes || memmem(file->data, file->size_bytes, symbol, sizeof symbol - 1))
    return ath_fail(ATHANOR_ERROR_FORMAT,
                    "%s is cut short, or its footer is damaged: its %zu bytes do not end in an "
                    "artifact's footer",
                    path, file->size_bytes);
  return ath_fail(ATHANOR_ERROR_FORMAT,
                  "%s is no Athanor artifact: it is a library without the footer of one", path);
}

/* The parts follow each other without a gap or an overlap, up to the end of the file. */
static bool is_consistent(const AthanorFooter *f, uint64_t size_bytes) {
  const bool beside = f->flags & ATHANOR_FLAG_WEIGHTS_BESIDE;
  const uint64_t body = size_bytes - sizeof *f;
  if (f->code_bytes > body || f->metadata_offset > body) return false;
  if (f->metadata_bytes != body - f->metadata_offset) return false;
  if (beside) return f->weights_offset == 0 && f->metadata_offset == f->code_bytes;
  return f->weights_offset % 4096 == 0 && f->weights_offset >= f->code_bytes &&
         f->weights_offset - f->code_bytes < MAX_PADDING_BYTES &&
         f->weights_offset <= f->metadata_offset &&
         f->weights_bytes == f->metadata_offset - f->weights_offset;
}

AthanorStatus ath_footer_read(const char *path, const AthFile *file, AthanorFooter *footer) {
  uint8_t digest[32];
  if (file->size_bytes < sizeof *footer) return no_footer(path, file);
  memcpy(footer, file->data + file->size_bytes - sizeof *footer, sizeof *footer);
  if (memcmp(footer->magic, ATHANOR_FOOTER_MAGIC, sizeof footer->magic))
    return no_footer(path, file);
  ath_sha256((const uint8_t *)footer, offsetof(AthanorFooter, footer_sha256), digest);
  const bool same_version = footer->abi_version == ATHANOR_ABI_VERSION;
  if (memcmp(digest, footer->footer_sha256, 32))
    return same_version
               ? ath_fail(ATHANOR_ERROR_FORMAT,
                          "footer of %s is damaged: its SHA-256 does not match", path)
               : ath_fail(ATHANOR_ERROR_FORMAT,
                          "footer of %s is damaged, or of another ABI version: it says "
                          "%u, this library (%s) reads version %u",
                          path, footer->abi_version, athanor_version(), ATHANOR_ABI_VERSION);
  if (!same_version)
    return ath_fail(ATHANOR_ERROR_VERSION,
                    "%s has ABI version %u, this library (%s) reads version %u: compile the model "
                    "again with the Athanor you run it with",
                    path, footer->abi_version, athanor_version(), ATHANOR_ABI_VERSION);
  /* Names are zero-terminated, or the checks below would read on. */
  if (footer->footer_bytes != sizeof *footer || footer->triple[sizeof footer->triple - 1] ||
      footer->cpu_features[sizeof footer->cpu_features - 1] ||
      !is_consistent(footer, file->size_bytes))
    return ath_fail(ATHANOR_ERROR_FORMAT,
                    "%s is cut short or was joined from parts: the sizes in its footer do not add "
                    "up to its %zu bytes",
                    path, file->size_bytes);
  return ATHANOR_OK;
}

AthanorStatus ath_verify_metadata(const char *path, const AthFile *file,
                                  const AthanorFooter *footer) {
  return check_hash("metadata", path, file->data + footer->metadata_offset, footer->metadata_bytes,
                    footer->metadata_sha256);
}

AthanorStatus ath_verify(const char *path, const AthFile *file, const char *weights_path,
                         const uint8_t *weights, const AthanorFooter *footer, bool with_weights) {
  AthanorStatus status =
      check_hash("code", path, file->data, footer->code_bytes, footer->code_sha256);
  if (!status) status = ath_verify_metadata(path, file, footer);
  if (!(footer->flags & ATHANOR_FLAG_WEIGHTS_BESIDE)) {
    for (uint64_t i = footer->code_bytes; !status && i < footer->weights_offset; i++)
      if (file->data[i])
        status = ath_fail(ATHANOR_ERROR_FORMAT, "padding of %s is damaged: byte %llu is not zero",
                          path, (unsigned long long)i);
  }
  if (!status && with_weights)
    status =
        check_hash("weights", weights_path, weights, footer->weights_bytes, footer->weights_sha256);
  return status;
}

AthanorStatus ath_check_machine(const char *path, const AthanorFooter *footer) {
  const char *family = ath_cpu_family();
  const size_t length = strcspn(footer->triple, "-");
  if (strlen(family) != length || strncmp(family, footer->triple, length))
    return ath_fail(ATHANOR_ERROR_MACHINE, "%s is for %s, this library runs on %s", path,
                    footer->triple, family);
  char names[sizeof footer->cpu_features], missing[sizeof names + 2] = "";
  memcpy(names, footer->cpu_features, sizeof names);
  int count = 0;
  for (char *rest, *name = strtok_r(names, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
    if (ath_cpu_has(name)) continue;
    strcat(strcat(missing, count++ ? " " : ""), name);
  }
  if (!count) return ATHANOR_OK;
  return ath_fail(
      ATHANOR_ERROR_MACHINE,
      "%s needs the CPU feature%s %s, which this machine lacks: compile the model for a "
      "smaller target",
      path, count > 1 ? "s" : "", missing);
}

/* The calling thread's error text. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char text[ATH_ERROR_BYTES];

AthanorStatus ath_fail(AthanorStatus status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status;
}

void ath_set_error(const char *message) {
  snprintf(text, sizeof text, "%s", message ? message : "");
}

void ath_clear_error(void) { text[0] = 0; }

const char *athanor_last_error(void) { return text; }

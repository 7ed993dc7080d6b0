/* What a session's device is. */
#include "session.h"

#include <string.h>

#define CLOCK_RATE 13 /* numbers of CUdevice_attribute */
#define MULTIPROCESSORS 16
#define MEMORY_CLOCK_RATE 36
#define MEMORY_BUS_WIDTH 37
#define L2_CACHE_SIZE 38
#define CAPABILITY_MAJOR 75
#define CAPABILITY_MINOR 76

AthanorStatus athanor_session_device_info(const AthanorSession *session, AthanorDeviceInfo *info) {
  ath_clear_error();
  if (!session || !info || info->size_bytes < sizeof *info)
    return ath_fail(ATHANOR_ERROR_ARGUMENT,
                    "athanor_session_device_info: session or info is NULL, or its size is not set");
  if (!session->device)
    return ath_fail(ATHANOR_ERROR_ARGUMENT, "%s is for the CPU", session->model->path);
  const AthCudaDriver *cuda = session->device->driver;
  const AthDeviceModel *loaded = session->device->loaded;
  AthanorDeviceInfo found = {.size_bytes = sizeof found, .device = loaded->device};
  int major = 0, minor = 0;
  size_t memory_bytes = 0;
  struct {
    int number;
    int32_t *value;
  } attributes[] = {
      {CAPABILITY_MAJOR, &major},           {CAPABILITY_MINOR, &minor},
      {MULTIPROCESSORS, &found.multiprocessors},
      {CLOCK_RATE, &found.clock_khz},       {MEMORY_CLOCK_RATE, &found.memory_clock_khz},
      {MEMORY_BUS_WIDTH, &found.memory_bus_bits},
      {L2_CACHE_SIZE, &found.l2_bytes},
  };
  AthanorStatus status = ATHANOR_OK;
  for (size_t i = 0; !status && i < sizeof attributes / sizeof *attributes; i++)
    status = ath_cuda_check(
        cuda->device_attribute(attributes[i].value, attributes[i].number, loaded->handle),
        ATHANOR_ERROR_MACHINE, "asking the device what it is");
  if (!status)
    status = ath_cuda_check(cuda->device_name(found.name, sizeof found.name, loaded->handle),
                            ATHANOR_ERROR_MACHINE, "asking the device for its name");
  if (!status)
    status = ath_cuda_check(cuda->device_memory(&memory_bytes, loaded->handle),
                            ATHANOR_ERROR_MACHINE, "asking the device for its memory");
  if (status) return status;
  found.capability = 10 * major + minor;
  found.memory_bytes = memory_bytes;
  *info = found;
  return ATHANOR_OK;
}

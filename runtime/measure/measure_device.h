/* What the generated launcher of a candidate for a GPU (tuning/device_object.py) stands on. */
#ifndef ATHANOR_MEASURE_DEVICE_H_
#define ATHANOR_MEASURE_DEVICE_H_

#include "athanor_abi.h"

/* The session of a launcher's run. */
typedef struct {
  uint32_t num_images, num_functions;
  const AthanorImage *images;
  const AthanorDeviceFunction *functions;
} MeasureDeviceCode;

/* Of these the launcher uses device_launch. */
extern const AthanorServices measure_device_services;
/* Memory of the kernel's own by number, the same in every call; NULL with an error text. */
void *measure_device_scratch(uint32_t number, uint64_t size_bytes);

#endif /* ATHANOR_MEASURE_DEVICE_H_ */

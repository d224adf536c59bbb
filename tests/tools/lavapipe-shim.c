/* Stands in for libvk_swiftshader.so beside a copy of Chromium, so that tests get Mesa's lavapipe as WebGPU adapter.
 *
 * Chromium accepts one software adapter, SwiftShader, which it loads from its own folder by this file's name and knows by
 * its vendor and device ids. This library forwards every Vulkan call to lavapipe and only rewrites those two ids.
 * Built and put in place by lavapipe-chromium.sh. Test tooling: nothing of it ships.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <vulkan/vulkan.h>

#define EXPORT __attribute__((visibility("default")))
/* SwiftShader's ids, as its source registers them with Khronos. */
enum { SWIFTSHADER_VENDOR = 0x1AE0, SWIFTSHADER_DEVICE = 0xC0DE };

static PFN_vkGetInstanceProcAddr lavapipe_proc_addr;
static PFN_vkGetPhysicalDeviceProperties lavapipe_properties;
static PFN_vkGetPhysicalDeviceProperties2 lavapipe_properties2;

static void disguise(VkPhysicalDeviceProperties *properties) {
  properties->vendorID = SWIFTSHADER_VENDOR;
  properties->deviceID = SWIFTSHADER_DEVICE;
}

static VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *out) {
  lavapipe_properties(device, out);
  disguise(out);
}

static VKAPI_ATTR void VKAPI_CALL properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *out) {
  lavapipe_properties2(device, out);
  disguise(&out->properties);
}

/* Loads lavapipe at the first call; 0 when that fails, which Chromium reports as "no adapter". */
static int load_lavapipe(void) {
  typedef VkResult (*negotiate_fn)(uint32_t *);
  if (lavapipe_proc_addr) return 1;
  void *library = dlopen(LAVAPIPE_SO, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "lavapipe-shim: %s\n", dlerror());
    return 0;
  }
  negotiate_fn negotiate = (negotiate_fn)dlsym(library, "vk_icdNegotiateLoaderICDInterfaceVersion");
  uint32_t version = 5;
  if (negotiate) negotiate(&version);
  lavapipe_proc_addr = (PFN_vkGetInstanceProcAddr)dlsym(library, "vk_icdGetInstanceProcAddr");
  return lavapipe_proc_addr != NULL;
}

EXPORT PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name) {
  if (!load_lavapipe()) return NULL;
  if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)vkGetInstanceProcAddr;
  PFN_vkVoidFunction real = lavapipe_proc_addr(instance, name);
  if (!real) return NULL;
  if (!strcmp(name, "vkGetPhysicalDeviceProperties")) {
    lavapipe_properties = (PFN_vkGetPhysicalDeviceProperties)real;
    return (PFN_vkVoidFunction)properties;
  }
  /* The extension's older name is the same function. */
  if (!strcmp(name, "vkGetPhysicalDeviceProperties2") || !strcmp(name, "vkGetPhysicalDeviceProperties2KHR")) {
    lavapipe_properties2 = (PFN_vkGetPhysicalDeviceProperties2)real;
    return (PFN_vkVoidFunction)properties2;
  }
  return real;
}

EXPORT PFN_vkVoidFunction VKAPI_CALL vk_icdGetInstanceProcAddr(VkInstance instance, const char *name) {
  return vkGetInstanceProcAddr(instance, name);
}

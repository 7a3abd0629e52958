/* Messages: to standard error, and to the kernel's log once in the background. */
#ifndef BOOTFARM_LOG_H
#define BOOTFARM_LOG_H

/* From now on to /dev/kmsg. */
void log_to_kernel(void);

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif

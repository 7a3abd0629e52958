#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Who speaks: programs that share this file say it when it is compiled. */
#ifndef PROGRAM
#define PROGRAM "nbdroot"
#endif

static int kmsg = -1;

void log_to_kernel(void)
{
	kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

void say(const char *format, ...)
{
	char text[512] = "<4>" PROGRAM ": ";
	const size_t start = strlen(text);
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text + start, sizeof(text) - start - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	length += (int)start;
	if (length > (int)sizeof(text) - 2)
		length = (int)sizeof(text) - 2;
	text[length++] = '\n';
	if (kmsg >= 0) {
		if (write(kmsg, text, (size_t)length) < 0)
			return;
	} else {
		fputs(text + 3, stderr);
	}
}

#include "dmverity.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define CONTROL "/dev/mapper/control"
#define SECTOR 512
#define BLOCK_MAX 65536
#define WORDS 8
#define HASH_DIGITS 64
#define BUSY_TRIES 50
#define BUSY_NS 100000000L

/* ---- the table --------------------------------------------------------------------------- */

static bool is_hex(const char *word, size_t length)
{
	return strlen(word) == length && strspn(word, "0123456789abcdef") == length;
}

/* A decimal number in [1, most], without a sign or a leading zero. */
static bool read_number(const char *word, uint64_t most, uint64_t *number)
{
	size_t length = strlen(word);

	if (length == 0 || length > 18 || word[0] == '0' ||
	    strspn(word, "0123456789") != length)
		return false;
	*number = strtoull(word, NULL, 10);
	return *number <= most;
}

static bool is_block_size(uint64_t bytes)
{
	return bytes >= SECTOR && (bytes & (bytes - 1)) == 0;
}

int read_table(const char *words, const char *device, struct table *table)
{
	char copy[PARAMETERS_MAX], *word[WORDS + 1], *rest = copy;
	uint64_t data_block, hash_block, data_blocks, hash_start;
	int count = 0, length;

	errno = EINVAL;
	if (strlen(words) >= sizeof(copy))
		return -1;
	strcpy(copy, words);
	while (count <= WORDS && (word[count] = strsep(&rest, ",")) != NULL)
		count++;
	if (count != WORDS || strcmp(word[0], "1") != 0 ||
	    !read_number(word[1], BLOCK_MAX, &data_block) || !is_block_size(data_block) ||
	    !read_number(word[2], BLOCK_MAX, &hash_block) || !is_block_size(hash_block) ||
	    !read_number(word[3], UINT64_C(1) << 40, &data_blocks) ||
	    !read_number(word[4], UINT64_C(1) << 40, &hash_start) ||
	    strcmp(word[5], "sha256") != 0 || !is_hex(word[6], HASH_DIGITS) ||
	    !is_hex(word[7], HASH_DIGITS))
		return -1;
	table->sectors = data_blocks * (data_block / SECTOR);
	table->least = (hash_start + 1) * hash_block;
	if (hash_start * hash_block < data_blocks * data_block)
		return -1;
	length = snprintf(table->parameters, sizeof(table->parameters), "1 %s %s %s %s %s %s %s %s %s",
			  device, device, word[1], word[2], word[3], word[4], word[5], word[6],
			  word[7]);
	return length > 0 && (size_t)length < sizeof(table->parameters) ? 0 : -1;
}

/* ---- the ioctls -------------------------------------------------------------------------- */

struct request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char parameters[PARAMETERS_MAX];
};

static void begin(struct request *request, const char *name, uint32_t flags)
{
	memset(request, 0, sizeof(*request));
	request->head.version[0] = DM_VERSION_MAJOR;
	request->head.data_size = sizeof(*request);
	request->head.data_start = sizeof(request->head);
	request->head.flags = flags;
	snprintf(request->head.name, sizeof(request->head.name), "%s", name);
}

static int remove_by(int control, const char *name)
{
	struct request request;
	const struct timespec pause = {0, BUSY_NS};

	/* udev looks into a new device, and while it has it open the kernel says EBUSY. */
	for (int try = 0;; try++) {
		begin(&request, name, 0);
		if (ioctl(control, DM_DEV_REMOVE, &request) == 0)
			return 0;
		if (errno != EBUSY || try == BUSY_TRIES)
			return -1;
		nanosleep(&pause, NULL);
	}
}

/* The two steps after the device was made: its table, and that it goes on with it. */
static int load(int control, const char *name, const struct table *table)
{
	struct request request;

	begin(&request, name, DM_READONLY_FLAG);
	request.head.target_count = 1;
	request.target.length = table->sectors;
	strcpy(request.target.target_type, "verity");
	strcpy(request.parameters, table->parameters);
	if (ioctl(control, DM_TABLE_LOAD, &request) < 0)
		return -1;
	begin(&request, name, DM_READONLY_FLAG);
	return ioctl(control, DM_DEV_SUSPEND, &request);
}

int make_device(const char *name, const struct table *table)
{
	struct request request;
	int control = open(CONTROL, O_RDWR | O_CLOEXEC), number = -1, saved;

	if (control < 0)
		return -1;
	begin(&request, name, DM_READONLY_FLAG);
	if (ioctl(control, DM_DEV_CREATE, &request) == 0) {
		number = (int)minor(request.head.dev);
		if (load(control, name, table) < 0) {
			saved = errno;
			remove_by(control, name);
			errno = saved;
			number = -1;
		}
	}
	saved = errno;
	close(control);
	errno = saved;
	return number;
}

int remove_device(const char *name)
{
	int control = open(CONTROL, O_RDWR | O_CLOEXEC), result, saved;

	if (control < 0)
		return -1;
	result = remove_by(control, name);
	saved = errno;
	close(control);
	errno = saved;
	return result;
}

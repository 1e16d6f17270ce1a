// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * /dev/failing-fence: fences that end as the test wants, errors included.
 *
 * No driver that runs without hardware makes a fence fail, and user space cannot make an unsignalled
 * one at all. Here one open file is one pending fence:
 *
 *   ioctl(file, FAILING_FENCE_EXPORT)        a new sync_file of the fence; any number of them
 *   ioctl(file, FAILING_FENCE_SIGNAL, errno) ends it: 0 well, else failed with -errno; once
 *   close(file)                              ends a pending fence with -ENODEV, like a lost device
 */
#include <linux/dma-fence.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/sync_file.h>

#define FAILING_FENCE_EXPORT _IO('F', 0)
#define FAILING_FENCE_SIGNAL _IO('F', 1)

struct failing_fence {
	/* First: the default release frees the fence by its own address, and with it all of this. */
	struct dma_fence fence;
	spinlock_t lock;
	/* Set by whoever ends it: an error may only be set on a fence that is pending. */
	atomic_t ended;
};

static const char *failing_fence_name(struct dma_fence *fence)
{
	return "failing-fence";
}

static const struct dma_fence_ops failing_fence_ops = {
	.get_driver_name = failing_fence_name,
	.get_timeline_name = failing_fence_name,
};

static int end(struct failing_fence *self, int error)
{
	if (atomic_xchg(&self->ended, 1))
		return -EALREADY;
	if (error)
		dma_fence_set_error(&self->fence, -error);
	dma_fence_signal(&self->fence);
	return 0;
}

static int export(struct failing_fence *self)
{
	struct sync_file *sync_file;
	int fd = get_unused_fd_flags(O_CLOEXEC);

	if (fd < 0)
		return fd;
	sync_file = sync_file_create(&self->fence);
	if (!sync_file) {
		put_unused_fd(fd);
		return -ENOMEM;
	}
	fd_install(fd, sync_file->file);
	return fd;
}

static int failing_fence_open(struct inode *inode, struct file *file)
{
	struct failing_fence *self = kzalloc(sizeof(*self), GFP_KERNEL);

	if (!self)
		return -ENOMEM;
	spin_lock_init(&self->lock);
	dma_fence_init(&self->fence, &failing_fence_ops, &self->lock,
		       dma_fence_context_alloc(1), 1);
	file->private_data = self;
	return 0;
}

static int failing_fence_release(struct inode *inode, struct file *file)
{
	struct failing_fence *self = file->private_data;

	end(self, ENODEV);
	dma_fence_put(&self->fence);
	return 0;
}

static long failing_fence_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	switch (command) {
	case FAILING_FENCE_EXPORT:
		return export(file->private_data);
	case FAILING_FENCE_SIGNAL:
		return argument > MAX_ERRNO ? -EINVAL : end(file->private_data, argument);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations failing_fence_file = {
	.owner = THIS_MODULE,
	.open = failing_fence_open,
	.release = failing_fence_release,
	.unlocked_ioctl = failing_fence_ioctl,
};

static struct miscdevice failing_fence_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "failing-fence",
	.fops = &failing_fence_file,
};
module_misc_device(failing_fence_device);

MODULE_DESCRIPTION("Fences that fail, for tests");
MODULE_LICENSE("Dual MIT/GPL");

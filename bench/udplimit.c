/* udplimit: what the kernel alone costs. Receives queries and sends each back as a response with some octets more.
 *
 *   udplimit PORT mmsg|plain [OCTETS]
 *
 * mmsg: recvmmsg/sendmmsg, 64 at a time; plain: one call for each datagram. 127.0.0.1 only; ends by itself in an hour.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, ROOM = 2048, QUERY_MAX = 1024 };

static uint8_t room[BATCH][ROOM];
static struct mmsghdr head[BATCH];
static struct iovec iov[BATCH];
static struct sockaddr_in from[BATCH];

/* QR and AA set, one answer counted; what the answer says does not matter here. */
static int reply(uint8_t *packet, int length, int octets)
{
	packet[2] |= 0x84;
	packet[7] = 1;
	memset(packet + length, 0, octets);
	return length + octets;
}

static void plain(int fd, int octets)
{
	for (;;) {
		socklen_t size = sizeof *from;
		int got = recvfrom(fd, room[0], QUERY_MAX, 0, (void *)from, &size);
		if (got >= 12)
			sendto(fd, room[0], reply(room[0], got, octets), 0, (void *)from, size);
	}
}

static void batched(int fd, int octets)
{
	for (int i = 0; i < BATCH; i++) {
		iov[i].iov_base = room[i];
		head[i].msg_hdr.msg_iov = &iov[i];
		head[i].msg_hdr.msg_iovlen = 1;
		head[i].msg_hdr.msg_name = &from[i];
	}
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			iov[i].iov_len = QUERY_MAX;
			head[i].msg_hdr.msg_namelen = sizeof from[i];
		}
		int got = recvmmsg(fd, head, BATCH, MSG_WAITFORONE, NULL);
		for (int i = 0; i < got; i++)
			iov[i].iov_len = reply(room[i], head[i].msg_len, octets);
		for (int done = 0, sent; done < got; done += sent)
			if ((sent = sendmmsg(fd, head + done, got - done, 0)) <= 0)
				break;
	}
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "udplimit PORT mmsg|plain [OCTETS]\n");
		return 2;
	}
	int octets = argc > 3 ? atoi(argv[3]) : 16, fd = socket(AF_INET, SOCK_DGRAM, 0), size = 4 << 20;
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	if (octets < 0 || octets > ROOM - QUERY_MAX || bind(fd, (void *)&here, sizeof here)) {
		perror("bind");
		return 1;
	}
	alarm(3600);
	if (strcmp(argv[2], "mmsg"))
		plain(fd, octets);
	batched(fd, octets);
}

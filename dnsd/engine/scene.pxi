# What is served, taken over from Python: the image's sections, its records as they stand, the tables of its maps.
# Lives here: every check that look-ups rely on later, the lifetime of what they point to. Does not live here: reading the
# files (serve.images), deciding when (serve.engine).
#
# A Sight never changes. A delta makes another, which shares all but the list of records; the buffers behind both stay
# as long as one of them does.

from cpython.mem cimport PyMem_Free, PyMem_Malloc


cdef enum:
    CUT_OR_WILDCARD = 2


# The sections of an image that do not change with its records.
cdef class Ground:
    cdef object buffer
    cdef const uint8_t[::1] view
    cdef Scene scene
    cdef Zone *zones
    cdef const uint8_t *record_slots
    cdef uint64_t record_room
    cdef uint32_t node_count, rrset_count, zone_count
    cdef uint64_t names_size, data_size

    def __cinit__(self):
        self.zones = NULL

    def __init__(self, buffer):
        self.buffer = buffer
        self.view = buffer
        self._sections()
        self._check_nodes()

    def __dealloc__(self):
        PyMem_Free(self.zones)

    cdef _sections(self):
        cdef const uint8_t *base = &self.view[0]
        cdef uint64_t size = self.view.shape[0], offset, length, need, at
        cdef uint32_t i, kind, count
        cdef Scene *scene = &self.scene
        cdef set found = set()
        if size < K_SIZEOF_HEADER or le32(base + K_HEADER_LAYOUT) != K_LAYOUT:
            raise ValueError("not an image of this layout")
        scene.depth = le32(base + K_HEADER_DEPTH)
        for i in range(le32(base + K_HEADER_SECTIONS)):
            at = K_SIZEOF_HEADER + <uint64_t>i * K_SIZEOF_SECTION
            if at + K_SIZEOF_SECTION > size:
                raise ValueError("sections end behind the file")
            kind, count = le32(base + at + K_SECTION_KIND), le32(base + at + K_SECTION_COUNT)
            offset, length = le64(base + at + K_SECTION_OFFSET), le64(base + at + K_SECTION_SIZE)
            if offset > size or length > size - offset:
                raise ValueError(f"section {kind} ends behind the file")
            need = <uint64_t>count * _widths().get(kind, 0)
            if need > length:
                raise ValueError(f"section {kind} is shorter than its {count} items")
            found.add(kind)
            self._take(kind, count, base + offset, length)
        if not found.issuperset(range(K_S_ZONES, K_S_RECORDS + 1)):
            raise ValueError("sections are missing")
        if not self.node_count or not self.zone_count:
            raise ValueError("an image without names")

    cdef _take(self, uint32_t kind, uint32_t count, const uint8_t *at, uint64_t length):
        cdef Scene *scene = &self.scene
        if kind == K_S_ZONES:
            self._take_zones(count, at)
        elif kind == K_S_NODES:
            scene.nodes, self.node_count = at, count
        elif kind == K_S_RRSETS:
            scene.rrsets, self.rrset_count = at, count
        elif kind == K_S_NAMES:
            scene.names, self.names_size = at, length
        elif kind == K_S_DATA:
            scene.data, self.data_size = at, length
        elif kind == K_S_HASH:
            if count & (count - 1) or not count or <uint64_t>at % 4:
                raise ValueError("the hash of names is no power of two")
            scene.slots, scene.mask = <const uint32_t*>at, count - 1
        elif kind == K_S_RECORDS:
            self.record_slots, scene.record_count, self.record_room = at, count, length

    cdef _take_zones(self, uint32_t count, const uint8_t *at):
        cdef uint32_t i
        PyMem_Free(self.zones)
        self.zone_count = 0
        self.zones = <Zone*>PyMem_Malloc(max(1, count) * sizeof(Zone))
        if self.zones == NULL:
            raise MemoryError
        self.zone_count, self.scene.zones = count, self.zones
        for i in range(count):  # numbers first; what they mean is looked up when all sections are known
            self.zones[i].apex_len = le32(at + <uint64_t>i * K_SIZEOF_ZONE + K_ZONE_NODE)
            self.zones[i].soa_len = le32(at + <uint64_t>i * K_SIZEOF_ZONE + K_ZONE_NEGATIVE)

    cdef _check_nodes(self):
        cdef uint32_t i, used = 0
        cdef Scene *scene = &self.scene
        for i in range(self.rrset_count):
            self._check_rrset(rrset_at(scene, i), i)
        for i in range(self.zone_count):
            self._finish_zone(&self.zones[i], i)
        for i in range(self.node_count):
            self._check_node(node_at(scene, i), i)
        for i in range(scene.mask + 1):
            if scene.slots[i] > self.node_count:
                raise ValueError(f"hash slot {i} refers to no node")
            used += scene.slots[i] != 0
        if used > scene.mask:
            raise ValueError("the hash of names is full")

    cdef _check_rrset(self, const uint8_t *rrset, uint32_t number):
        cdef uint64_t at = le32(rrset + K_RRSET_DATA), size = le32(rrset + K_RRSET_SIZE)
        cdef uint64_t extra = le32(rrset + K_RRSET_EXTRA), extra_size = le32(rrset + K_RRSET_EXTRA_SIZE)
        cdef uint64_t end = at + size
        cdef uint32_t count = 0, type_ = le16(rrset + K_RRSET_TYPE)
        if at + size > self.data_size or extra + extra_size > self.data_size:
            raise ValueError(f"rrset {number} ends behind the data")
        while at < end:
            if at + 12 > end or at + 12 + be16(self.scene.data + at + 10) > end:
                raise ValueError(f"rrset {number} is cut off")
            at += 12 + be16(self.scene.data + at + 10)
            count += 1
        if count != le16(rrset + K_RRSET_COUNT) or not count:
            raise ValueError(f"rrset {number} has {count} records")
        if type_ == K_T_CNAME and (count != 1 or not whole_name(self.scene.data + end - size + 12, size - 12)):
            raise ValueError(f"rrset {number} is no alias")

    cdef _finish_zone(self, Zone *zone, uint32_t number):
        cdef uint32_t node = zone.apex_len, rrset = zone.soa_len
        if node >= self.node_count or rrset >= self.rrset_count:
            raise ValueError(f"zone {number} has no apex or SOA")
        zone.apex_len = node_at(&self.scene, node)[K_NODE_NAME_LEN]
        zone.soa = self.scene.data + le32(rrset_at(&self.scene, rrset) + K_RRSET_DATA) + 2
        zone.soa_len = le32(rrset_at(&self.scene, rrset) + K_RRSET_SIZE) - 2

    cdef _check_node(self, const uint8_t *node, uint32_t number):
        cdef Scene *scene = &self.scene
        cdef uint64_t at = le32(node + K_NODE_NAME), size = node[K_NODE_NAME_LEN]
        cdef uint32_t zone = le32(node + K_NODE_ZONE), record = le32(node + K_NODE_RECORD), i, other
        cdef uint32_t[CUT_OR_WILDCARD] others = [le32(node + K_NODE_CUT), le32(node + K_NODE_WILDCARD)]
        if at + size > self.names_size or not whole_name(scene.names + at, size):
            raise ValueError(f"node {number} has no name")
        if zone >= self.zone_count or scene.zones[zone].apex_len > size:
            raise ValueError(f"node {number} is of no zone")
        if <uint64_t>le32(node + K_NODE_RRSETS) + le16(node + K_NODE_RRSET_COUNT) > self.rrset_count:
            raise ValueError(f"node {number} has rrsets that are not there")
        if record != K_NONE and record >= scene.record_count:
            raise ValueError(f"node {number} has a record that is not there")
        for i in range(CUT_OR_WILDCARD):
            other = others[i]
            if other != K_NONE and other >= self.node_count:
                raise ValueError(f"node {number} refers to a node that is not there")
        if others[1] != K_NONE and node_at(scene, others[1])[K_NODE_NAME_LEN] != size + 2:
            raise ValueError(f"node {number} has a wildcard that is none")
        if others[0] != K_NONE and (find_rrset(scene, node_at(scene, others[0]), K_T_NS) < 0
                                    or node_at(scene, others[0])[K_NODE_NAME_LEN] > size):
            raise ValueError(f"node {number} has a cut that is none")
        if le16(node + K_NODE_FLAGS) & K_N_CNAME and find_rrset(scene, node, K_T_CNAME) < 0:
            raise ValueError(f"node {number} has no alias")


def _widths():
    return {K_S_ZONES: K_SIZEOF_ZONE, K_S_NODES: K_SIZEOF_NODE, K_S_RRSETS: K_SIZEOF_RRSET, K_S_HASH: 4,
            K_S_RECORDS: K_SIZEOF_SLOT}


# Whether these octets are one whole name of at most 255.
cdef bint whole_name(const uint8_t *name, uint64_t size) noexcept:
    cdef uint64_t at = 0
    if size > 255:
        return False
    while at < size and name[at]:
        if name[at] > 63:
            return False
        at += 1 + name[at]
    return at + 1 == size


# The tables of an image's maps, by map id.
cdef class Maps:
    cdef dict buffers
    cdef list numbers
    cdef Table *tables

    def __cinit__(self):
        self.tables = NULL

    def __dealloc__(self):
        PyMem_Free(self.tables)

    def __init__(self, dict buffers):
        cdef const uint8_t[::1] view
        self.buffers, self.numbers = dict(buffers), list(buffers)
        self.tables = <Table*>PyMem_Malloc(max(1, len(buffers)) * sizeof(Table))
        if self.tables == NULL:
            raise MemoryError
        for i, number in enumerate(self.numbers):
            view = buffers[number]
            if not view.shape[0] or not table_ok(&view[0], view.shape[0], &self.tables[i]):
                raise ValueError(f"map {number}: a table that is none")

    # NULL where there is none yet.
    cdef const Table *find(self, uint32_t number):
        return &self.tables[<int>self.numbers.index(number)] if number in self.buffers else NULL


cdef uint64_t _made = 0


cdef class Sight:
    """One state of an image. `records` are those that stand in place of the file's, by index; `tables` the map files by
    map id; `identity` what the NSID tells. All buffers must stay as they are. ValueError where anything is unusable."""

    cdef readonly uint64_t number
    cdef Ground ground
    cdef Maps maps
    cdef dict records
    cdef bytes identity
    cdef Scene scene
    cdef Plan *plans

    def __cinit__(self):
        self.plans = NULL

    def __dealloc__(self):
        PyMem_Free(self.plans)

    def __init__(self, buffer, dict records, dict tables, bytes identity):
        cdef uint32_t i
        self._begin(buffer if isinstance(buffer, Ground) else Ground(buffer), Maps(tables), identity)
        self.records = {}
        for i in range(self.scene.record_count):
            self._place(i, records.get(i))

    def patched(self, list items, bytes identity):
        """The Sight after a delta: (record index, octets) pairs."""
        cdef Sight other = Sight.__new__(Sight)
        other._begin(self.ground, self.maps, identity)
        other.records = dict(self.records)
        memcpy(other.plans, self.plans, self.scene.record_count * sizeof(Plan))
        other.scene.largest = self.scene.largest
        for index, data in items:
            other._place(index, data)
        return other

    def mapped(self, dict tables, bytes identity):
        """The Sight with other map tables."""
        return Sight(self.ground, self.records, tables, identity)

    cdef _begin(self, Ground ground, Maps maps, bytes identity):
        global _made
        if len(identity) > NSID_MAX:
            raise ValueError("an identity is too long")
        _made += 1
        self.number = _made
        self.ground, self.maps, self.identity, self.scene = ground, maps, identity, ground.scene
        self.plans = <Plan*>PyMem_Malloc(max(1, self.scene.record_count) * sizeof(Plan))
        if self.plans == NULL:
            raise MemoryError
        self.scene.plans = self.plans
        self.scene.identity, self.scene.identity_len = <const uint8_t*>self.identity, len(identity)
        self.scene.largest = 0

    cdef _place(self, uint32_t index, data):
        cdef const uint8_t *slot
        cdef const uint8_t *at
        cdef uint64_t size
        cdef Plan *plan
        if index >= self.scene.record_count:
            raise ValueError("no such record")
        plan = &self.plans[index]
        if data is None:
            slot = self.ground.record_slots + <uint64_t>index * K_SIZEOF_SLOT
            at, size = self.ground.record_slots + le32(slot + K_SLOT_OFFSET), le32(slot + K_SLOT_SIZE)
            if <uint64_t>le32(slot + K_SLOT_OFFSET) + size > self.ground.record_room:
                raise ValueError(f"record {index} ends behind the file")
        else:
            self.records[index] = bytes(data)
            at, size = <const uint8_t*>(<bytes>self.records[index]), len(data)
        if not plan_ok(at, <uint32_t>size):
            raise ValueError(f"record {index}: not a record")
        plan.data, plan.size, plan.map = at, <uint32_t>size, le32(at + K_RECORD_MAP)
        plan.table = self.maps.find(plan.map)
        self.scene.largest = max(self.scene.largest, le16(at + K_RECORD_ENDPOINTS))


# Where one thread works.
cdef struct Space:
    Ask ask
    Work work
    uint8_t *memory
    uint32_t largest


# Room for records with so many endpoints; False where there is no memory. Without the GIL, between batches.
cdef bint fit(Space *space, uint32_t largest) noexcept nogil:
    cdef uint8_t *memory
    if space.memory != NULL and largest <= space.largest:
        return True
    memory = <uint8_t*>malloc(SCRATCH + work_size(largest))
    if memory == NULL:
        return False
    free(space.memory)
    space.memory, space.largest = memory, largest
    space.ask.scratch = memory
    work_lay(&space.work, memory + SCRATCH, largest)
    return True

-- Shared by every script, which follows this text.
--
-- KEYS  1 generation, a counter: the keys 2 to 11 belong to one generation
--       2 positions  HASH  <topic>/<partition> -> next offset; fence -> last
--       3 cases      HASH  case id -> case, JSON
--       4 pending:conversation, 5 pending:media  ZSET  by deadline, critical first
--       6 dead       ZSET  by deadline
--       7 leases     ZSET  by expiry
--       8 decided    ZSET  by time of decision
--       9 open       ZSET  cases not decided, by the time they were opened
--      10 severities HASH  severity -> number of cases not decided
--      11 requests   HASH  digest of reviewer and request -> case id
-- ARGV  1 generation that the keys are of, 2 milliseconds to add to the time (tests)
--
-- Returns {'GEN', generation} where the queue was rebuilt meanwhile. Every case
-- is in exactly one of the sets 4 to 8.

local generation = redis.call('GET', KEYS[1]) or '0'
if generation ~= ARGV[1] then
  return {'GEN', generation}
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000) + tonumber(ARGV[2])
local micros = now * 1000 + tonumber(clock[2]) % 1000

local CRITICAL = 4
local before = {} -- case id -> state and severity as stored

local function load(id)
  local raw = redis.call('HGET', KEYS[3], id)
  if not raw then
    return nil
  end
  local c = cjson.decode(raw)
  before[id] = {c.state, c.sev}
  return c
end

local function count(state, severity, by)
  if state ~= 'decided' then
    redis.call('HINCRBY', KEYS[10], tostring(severity), by)
  end
end

local function place(c)
  if c.state == 'pending' then
    local score = c.deadline
    if c.sev == CRITICAL then
      score = score - 1e13 -- before everything that is not critical
    end
    return c.kind == 'media' and 5 or 4, score
  elseif c.state == 'leased' then
    return 7, c.lease.expires
  elseif c.state == 'dead' then
    return 6, c.deadline
  end
  return 8, c.decided_at
end

local function save(c)
  local key, score = place(c)
  for k = 4, 8 do
    if k ~= key then
      redis.call('ZREM', KEYS[k], c.id)
    end
  end
  redis.call('ZADD', KEYS[key], score, c.id)
  if c.state == 'decided' then
    redis.call('ZREM', KEYS[9], c.id)
  else
    redis.call('ZADD', KEYS[9], c.opened, c.id)
  end
  local was = before[c.id]
  if was then
    count(was[1], was[2], -1)
  end
  count(c.state, c.sev, 1)
  before[c.id] = {c.state, c.sev}
  redis.call('HSET', KEYS[3], c.id, cjson.encode(c))
end

-- unlease takes the lease off an open case.
local function unlease(c, maxAttempts)
  redis.call('HDEL', KEYS[11], c.lease.request)
  c.lease = nil
  c.state = c.attempts >= maxAttempts and 'dead' or 'pending'
end

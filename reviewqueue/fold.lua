-- Folds records of dm.hits and dm.decisions into their cases.
--
-- KEYS  12.. for each record: messages (HASH message id -> index entry),
--            summaries (HASH message id -> event) and decisions (HASH revision
--            -> decision in force) of its case
-- ARGV  3 field of the position to move, '' for none; 4 the offset that this
--       batch follows; 5 the offset after it; 6 attempts before a case is dead;
--       7 messages indexed a case; 8 messages kept in full a case; 9.. records
--
-- Returns {'OK', for each record 1, or 0 for a decision that is not in force},
-- or {'GAP', offset} where records before the batch are missing: then nothing
-- was changed.

local field, from, to = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local maxAttempts, maxIndexed, maxFull = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

if field ~= '' then
  local at = tonumber(redis.call('HGET', KEYS[2], field) or '0')
  if at < from then
    return {'GAP', tostring(at)}
  end
  if at >= to then
    return {'OK'}
  end
end

local function later(p, o, q, r)
  return p > q or (p == q and o > r)
end

local function covered(entry, message, through, ids)
  if ids[message] then
    return true
  end
  for p, o in pairs(entry.first) do
    if o <= (through[p] or -1) then
      return true
    end
  end
  return false
end

-- settle derives the state of a case from all that is known of it.
local function settle(c, messages, decisions)
  local through, ids, last = {}, {}, 0
  local flat = redis.call('HGETALL', decisions)
  for i = 1, #flat, 2 do
    local revision, d = tonumber(flat[i]), cjson.decode(flat[i + 1])
    for p, o in pairs(d.through or {}) do
      through[p] = math.max(o, through[p] or -1)
    end
    for _, id in ipairs(d.messages or {}) do
      ids[id] = true
    end
    if revision > last then
      last, c.decided_at = revision, d.at
    end
  end

  -- What is open counts; where nothing is, everything.
  local all, open = {sev = 0}, {sev = 0}
  local function add(to, sev, time, sla)
    to.sev = math.max(to.sev, sev)
    to.opened = math.min(time, to.opened or time)
    to.deadline = math.min(time + sla, to.deadline or time + sla)
  end
  flat = redis.call('HGETALL', messages)
  for i = 1, #flat, 2 do
    local e = cjson.decode(flat[i + 1])
    add(all, e.sev, e.time, e.sla)
    if not covered(e, flat[i], through, ids) then
      add(open, e.sev, e.time, e.sla)
    end
  end
  if c.more then
    add(all, c.more.sev, c.more.time, c.more.sla)
    for p, o in pairs(c.more.high) do
      if o > (through[p] or -1) then
        add(open, c.more.sev, c.more.time, c.more.sla)
      end
    end
  end

  local isOpen = open.opened ~= nil
  local of = isOpen and open or all
  c.sev, c.opened, c.deadline = of.sev, of.opened, of.deadline
  local revision = isOpen and last + 1 or last
  if c.lease and (not isOpen or revision ~= c.revision) then
    unlease(c, maxAttempts)
  end
  if revision ~= c.revision then
    c.revision, c.attempts = revision, 0
  end
  if not isOpen then
    c.state = 'decided'
  elseif c.lease then
    c.state = 'leased'
  else
    c.state = c.attempts >= maxAttempts and 'dead' or 'pending'
  end
end

-- widen adds one open message to a case that was never decided, without
-- reading the others.
local function widen(c, r)
  c.sev = math.max(c.sev, r.sev)
  c.opened = math.min(r.time, c.opened or r.time)
  c.deadline = math.min(r.time + r.sla, c.deadline or r.time + r.sla)
  if c.revision == 0 then
    c.revision, c.state = 1, 'pending'
  end
end

local function hit(c, r, messages, summaries, decisions)
  local p = tostring(r.p)
  local raw = redis.call('HGET', messages, r.message)
  if raw then
    local e = cjson.decode(raw)
    local newer = later(r.p, r.o, e.p, e.o)
    if not newer and (e.first[p] or r.o + 1) <= r.o and e.time <= r.time then
      return
    end
    e.first[p] = math.min(r.o, e.first[p] or r.o)
    e.time = math.min(r.time, e.time)
    if newer then
      e.p, e.o, e.sev, e.sla, e.sent, e.labels, e.reports = r.p, r.o, r.sev, r.sla, r.sent, r.labels, r.reports
      if redis.call('HEXISTS', summaries, r.message) == 1 then
        redis.call('HSET', summaries, r.message, r.summary)
      end
    end
    redis.call('HSET', messages, r.message, cjson.encode(e))
  elseif c.indexed < maxIndexed then
    local e = {p = r.p, o = r.o, first = {[p] = r.o}, time = r.time, sev = r.sev, sla = r.sla, sent = r.sent,
      labels = r.labels, reports = r.reports}
    if c.indexed < maxFull then
      redis.call('HSET', summaries, r.message, r.summary)
    end
    redis.call('HSET', messages, r.message, cjson.encode(e))
    c.indexed = c.indexed + 1
  else
    local more = c.more or {count = 0, sev = 0, time = r.time, sla = r.sla, high = {}}
    if r.o <= (more.high[p] or -1) then
      return
    end
    more.count = more.count + 1
    more.high[p] = r.o
    more.sev = math.max(more.sev, r.sev)
    more.time, more.sla = math.min(more.time, r.time), math.min(more.sla, r.sla)
    c.more = more
  end
  c.high[p] = math.max(r.o, c.high[p] or -1)
  if raw or c.decided_at then
    settle(c, messages, decisions)
  else
    widen(c, r)
  end
  save(c)
end

local function decision(c, r, messages, decisions)
  local raw = redis.call('HGET', decisions, tostring(r.revision))
  if raw then
    local d = cjson.decode(raw)
    if not later(d.p, d.o, r.p, r.o) then
      return (d.p == r.p and d.o == r.o) and 1 or 0
    end
  end
  redis.call('HSET', decisions, tostring(r.revision), cjson.encode(r))
  settle(c, messages, decisions)
  save(c)
  return 1
end

local records = {}
for i = 9, #ARGV do
  records[#records + 1] = cjson.decode(ARGV[i])
end

local answer = {'OK'}
for i, r in ipairs(records) do
  local key = 12 + 3 * (i - 1)
  local c = load(r.case)
  if not c then
    c = {id = r.case, key = r.key, kind = r.kind, sev = 0, revision = 0, attempts = 0, indexed = 0, high = {}}
    -- Where Redis lost keys, those of a case may have outlived it: what they know would keep it from being filled again.
    redis.call('DEL', KEYS[key], KEYS[key + 1], KEYS[key + 2])
  end
  if r.revision then
    answer[#answer + 1] = decision(c, r, KEYS[key], KEYS[key + 2])
  else
    hit(c, r, KEYS[key], KEYS[key + 1], KEYS[key + 2])
    answer[#answer + 1] = 1
  end
end
if field ~= '' then
  redis.call('HSET', KEYS[2], field, ARGV[5])
end
return answer

-- Gives expired leases back and leases the most urgent case.
--
-- ARGV  3 queue, '' for any but dead; 4 digest of reviewer and request;
--       5 reviewer; 6 nonce and 7 digest of the new lease's secret; 8 lease in
--       milliseconds; 9 attempts before a case is dead; 10 expired leases given
--       back at most; 11 '1' to look only
--
-- Returns {'OK', case id, fence, nonce, expiry} for a new lease, or for the live
-- one of the same request; {'HEAD', score} where there is a case and the call
-- only looks; {'EMPTY'}.

local maxAttempts = tonumber(ARGV[9])

local expired = redis.call('ZRANGEBYSCORE', KEYS[7], '-inf', now, 'LIMIT', 0, tonumber(ARGV[10]))
for _, id in ipairs(expired) do
  local c = load(id)
  c.attempts = c.attempts + 1
  unlease(c, maxAttempts)
  save(c)
end

local held = redis.call('HGET', KEYS[11], ARGV[4])
if held then
  local c = load(held)
  if c and c.lease and c.lease.request == ARGV[4] and c.lease.expires > now then
    return {'OK', c.id, c.lease.fence, c.lease.nonce, tostring(c.lease.expires)}
  end
end

local sets = {4, 5}
if ARGV[3] == 'conversation' then
  sets = {4}
elseif ARGV[3] == 'media' then
  sets = {5}
elseif ARGV[3] == 'dead' then
  sets = {6}
end
local id, score
for _, k in ipairs(sets) do
  local head = redis.call('ZRANGE', KEYS[k], 0, 0, 'WITHSCORES')
  if head[1] and (not score or tonumber(head[2]) < score) then
    id, score = head[1], tonumber(head[2])
  end
end
if not id then
  return {'EMPTY'}
end
if ARGV[11] == '1' then
  return {'HEAD', string.format('%.0f', score)}
end

local c = load(id)
local fence = math.max(tonumber(redis.call('HGET', KEYS[2], 'fence') or '0') + 1, micros)
local text = string.format('%.0f', fence)
redis.call('HSET', KEYS[2], 'fence', text)
c.state = 'leased'
local through = {} -- a copy: some encoders refuse a table that occurs twice
for p, o in pairs(c.high) do
  through[p] = o
end
c.lease = {fence = text, nonce = ARGV[6], digest = ARGV[7], reviewer = ARGV[5], request = ARGV[4],
  expires = now + tonumber(ARGV[8]), through = through}
c.released = nil
redis.call('HSET', KEYS[11], ARGV[4], id)
save(c)
return {'OK', id, text, ARGV[6], tostring(c.lease.expires)}

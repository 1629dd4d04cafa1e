-- Checks a lease and does one thing with it.
--
-- ARGV  3 operation; 4 case id; 5 fence and 6 digest of the secret, both from
--       the token; 7 reviewer; 8 milliseconds; 9 attempts before a case is dead;
--       10 id of the decision in the making
--
-- Operations: check; heartbeat (the lease lasts at least 8 from now); release;
-- decide (nobody else can decide or release the case under this lease, which
-- lasts at least 8 from now); undecide (takes decide back).
--
-- Returns {'OK', expiry, revision, high offsets at the claim as JSON, case key};
-- {'LOST'} where the lease is not held; {'NONE'} where there is no such case.

local op = ARGV[3]
local c = load(ARGV[4])
if not c then
  return {'NONE'}
end
local lease = c.lease
if op == 'release' and not lease and c.released == ARGV[5] .. ARGV[6] then
  return {'OK', '0', '0', '{}', ''} -- a retry of a release that was done
end
if not lease or lease.fence ~= ARGV[5] or lease.digest ~= ARGV[6] or lease.reviewer ~= ARGV[7] or lease.expires <= now then
  return {'LOST'}
end

if op == 'heartbeat' then
  lease.expires = math.max(lease.expires, now + tonumber(ARGV[8]))
  save(c)
elseif op == 'release' then
  if lease.deciding then
    return {'LOST'}
  end
  unlease(c, tonumber(ARGV[9]))
  c.released = ARGV[5] .. ARGV[6]
  save(c)
elseif op == 'decide' then
  if lease.deciding and lease.deciding ~= ARGV[10] then
    return {'LOST'}
  end
  lease.deciding = ARGV[10]
  lease.expires = math.max(lease.expires, now + tonumber(ARGV[8]))
  save(c)
elseif op == 'undecide' then
  if lease.deciding == ARGV[10] then
    lease.deciding = nil
    save(c)
  end
end
return {'OK', tostring(lease.expires), tostring(c.revision), cjson.encode(lease.through), c.key}

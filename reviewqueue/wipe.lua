-- Starts a new, empty generation. Scripts of other processes are refused until
-- they know of it.
--
-- Returns {'GEN', the generation now}, also where another process was faster.

return {'GEN', tostring(redis.call('INCR', KEYS[1]))}

-- Do what the other scripts do and some services refuse; change nothing.
-- KEYS     1 a key of the namespace
-- ARGV     none
-- Returns  the number of these keys that exist
-- Atomic   nothing needs it; the script shows that scripts run here.
-- Flags    no-writes
-- Alibaba Cloud refuses unpack and a key that does not stand literally as KEYS[n]. Others lack EVALSHA.
local keys = { KEYS[1] }
return redis.call('EXISTS', unpack(keys))

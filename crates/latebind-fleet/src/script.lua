-- Answers a question as `Book::ask` does. Times are milliseconds of this server's clock.
--
-- KEYS: members (a hash: holder -> "number held need waiting until"), and the fleet's own (run, quiet, number)
-- ARGV: run id, limit, lease, settle, holder, number, held, need, waiting, whether sessions were counted,
--       then holder and count of each session
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local limit, lease, settle = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local id, number, held = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local need, waiting, counted = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10] == '1'
local sessions = {}
for i = 11, #ARGV, 2 do sessions[ARGV[i]] = tonumber(ARGV[i + 1]) end

-- A server that was started again may have lost leases. They last for one lease at most.
if redis.call('HGET', KEYS[2], 'run') ~= ARGV[1] then
    redis.call('HSET', KEYS[2], 'run', ARGV[1], 'quiet', now + lease)
end
local is_quiet = now < tonumber(redis.call('HGET', KEYS[2], 'quiet'))

local members, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
    local n, h, d, w, u = all[i + 1]:match('(%d+) (%d+) (%d+) (%d+) (%d+)')
    local it = { number = tonumber(n), held = tonumber(h), need = tonumber(d), waiting = tonumber(w),
                 till = tonumber(u) }
    if counted and it.till + settle <= now and (sessions[all[i]] or 0) == 0 then
        redis.call('HDEL', KEYS[1], all[i])
    else
        members[all[i]] = it
    end
end

local lapsed = {}
for holder, count in pairs(sessions) do
    local it = members[holder]
    if count > 0 and (it and it.till + settle <= now or not it and not is_quiet) then
        lapsed[#lapsed + 1] = holder
    end
end

local known = members[id]
if known and known.number == number and now < known.till then
    if not is_quiet and known.held < held then held = known.held end
elseif not known and number > 0 and is_quiet then
    -- It has a lease that this server has lost.
elseif not known and number == 0 then
    held = 0
else
    return { '0', 0, 0, 0, 0, lapsed }
end
local last = tonumber(redis.call('HGET', KEYS[2], 'number') or '0')
if number == 0 then number = last + 1 end
if number > last then redis.call('HSET', KEYS[2], 'number', string.format('%.0f', number)) end
local own = { number = number, held = held, need = need, waiting = waiting, till = now + lease }
members[id] = own

local taken, gone, lacking, needs = 0, 0, 0, {}
for holder, it in pairs(members) do
    taken = taken + it.held
    if it.till <= now then
        gone = gone + it.held
    else
        if it.need > 0 then needs[#needs + 1] = { holder, it.need, it.waiting } end
        if holder ~= id then lacking = lacking + math.max(it.need - it.held, 0) end
    end
end
for holder, count in pairs(sessions) do
    if not members[holder] then
        taken = taken + count
        gone = gone + count
    end
end

-- As `share` does.
local function share()
    table.sort(needs, function(a, b) return a[2] < b[2] end)
    local left, count, above = math.max(limit - gone, 0), #needs, 0
    for _, it in ipairs(needs) do
        if it[2] > math.floor(left / count) then break end
        if it[1] == id then return it[2] end
        left, count, above = left - it[2], count - 1, above + 1
    end
    local rest = {}
    for at = above + 1, #needs do rest[#rest + 1] = needs[at] end
    if #rest == 0 then return 0 end
    local level, odd = math.floor(left / count), left % count
    table.sort(rest, function(a, b)
        if level == 0 and a[3] ~= b[3] then return a[3] > b[3] end
        return a[1] < b[1]
    end)
    for rank, it in ipairs(rest) do
        if it[1] == id then return rank <= odd and level + 1 or level end
    end
    return 0
end
local entitled, free, granted = share(), math.max(limit - taken, 0), 0
if counted and not is_quiet then granted = math.min(math.max(entitled - held, 0), free) end
own.held = held + granted
redis.call('HSET', KEYS[1], id,
    string.format('%.0f %d %d %d %.0f', number, own.held, need, waiting, own.till))
local keep, is_scarce = own.held, free - granted < lacking
if is_scarce then keep = math.min(keep, entitled) end
return { string.format('%.0f', number), own.held, keep, is_scarce and 1 or 0, lease, lapsed }
